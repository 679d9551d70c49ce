"""The files of an engine: links, devices and other places are refused, and so are weights without a hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.runtime.engine_files import check_place, sealed
from export.runtime.errors import EngineError
from export.runtime.external_data import UnreadableError, files_in, locations


def named_by(path: Path) -> set[str]:
    """The files that a graph on disk names."""
    with path.open("rb") as file:
        return files_in(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An engine folder, with something beside it."""
    (tmp_path / "engine").mkdir()
    (tmp_path / "beside.onnx").write_bytes(b"graph")
    return tmp_path / "engine"


def refusal(folder: Path, name: str = "decode.onnx", content: bytes = b"graph") -> str:
    """Why a folder is refused whose only file is this one."""
    with pytest.raises(EngineError) as error:
        sealed(folder, {"decode": name}, {name: hashlib.sha256(content).hexdigest()})
    return str(error.value)


@pytest.mark.parametrize("target", ["../beside.onnx", "absolute"])
def test_a_link_out_of_the_folder_is_refused(folder, target) -> None:
    path = folder / "decode.onnx"
    path.symlink_to(folder.parent / "beside.onnx" if target == "absolute" else target)
    assert refusal(folder) == f"{path}: is a link that leads out of the engine folder; put the file itself there"


def test_a_link_within_the_folder_and_a_link_to_the_folder_are_followed(folder) -> None:
    (folder / "whole.onnx").write_bytes(b"graph")
    (folder / "decode.onnx").symlink_to("whole.onnx")
    (folder.parent / "link").symlink_to("engine")
    for each in (folder, folder.parent / "link"):
        seals = sealed(each, {"decode": "decode.onnx"}, {"decode.onnx": hashlib.sha256(b"graph").hexdigest()})
        assert seals["decode"].path == each / "decode.onnx"


def test_the_blobs_of_a_hugging_face_cache_belong_to_its_snapshots(tmp_path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123" / "engine"
    blobs = tmp_path / "models--a--b" / "blobs"
    for each in (snapshot, blobs):
        each.mkdir(parents=True)
    (blobs / "4567").write_bytes(b"graph")
    (snapshot / "decode.onnx").symlink_to("../../../blobs/4567")
    check_place(snapshot, snapshot / "decode.onnx")
    (snapshot / "other.onnx").symlink_to("../../../../elsewhere")
    with pytest.raises(EngineError, match="is a link that leads out"):
        check_place(snapshot, snapshot / "other.onnx")


def test_what_is_no_file_is_refused_without_being_read(folder) -> None:
    path = folder / "decode.onnx"
    os.mkfifo(path)
    assert refusal(folder) == f"{path}: is not a regular file (a device, FIFO or socket); a file is needed"
    path.unlink()
    path.mkdir()
    assert refusal(folder) == f"{path}: is a folder; a file is needed"
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert refusal(folder) == f"{path}: is a link that leads out of the engine folder; put the file itself there"
    path.unlink()
    path.symlink_to("decode.onnx")
    assert refusal(folder).startswith(f"{path}: not readable (")


def test_a_file_that_was_exchanged_after_it_was_hashed_is_noticed(folder) -> None:
    path = folder / "decode.onnx"
    path.write_bytes(b"graph")
    seal = sealed(folder, {"decode": "decode.onnx"}, {"decode.onnx": hashlib.sha256(b"graph").hexdigest()})["decode"]
    seal.check()
    os.utime(path, ns=(1, 1))
    seal.check()  # the same content in a file that was touched
    other = folder / "other"
    other.write_bytes(b"GRAPH")
    other.replace(path)
    with pytest.raises(EngineError) as error:
        seal.check()
    assert str(error.value) == f"{path}: was changed while it was opened; load the engine again"
    path.unlink()
    with pytest.raises(EngineError, match="was changed while it was opened"):
        seal.check()


def tensor(location: str) -> TensorProto:
    """A constant that lies in a file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    made.external_data.add(key="offset", value="0")
    made.external_data.add(key="location", value=location)
    return made


def graph_with(location: str, place: str) -> onnx.ModelProto:
    """A graph that keeps a constant in a file, in one of the places that ONNX has for constants."""
    outer = helper.make_graph([], "outer", [], [], [numpy_helper.from_array(np.ones(2, dtype=np.float32), "one")])
    inner = helper.make_graph([], "inner", [], [])
    model = helper.make_model(outer)
    if place == "initializer":
        outer.initializer.append(tensor(location))
    elif place == "subgraph":
        inner.initializer.append(tensor(location))
        outer.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner))
    elif place == "attribute":
        outer.node.append(helper.make_node("Constant", [], ["y"], value=tensor(location)))
    elif place == "attribute list":
        node = helper.make_node("Many", [], ["y"])
        node.attribute.add(name="all", type=onnx.AttributeProto.TENSORS).tensors.append(tensor(location))
        outer.node.append(node)
    elif place == "sparse":
        outer.sparse_initializer.add(dims=[2]).values.CopyFrom(tensor(location))
    else:
        node = helper.make_node("Constant", [], ["y"], value=tensor(location))
        model.functions.append(helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 21)]))
    model.graph.CopyFrom(outer)
    return model


@pytest.mark.parametrize("place", ["initializer", "subgraph", "attribute", "attribute list", "sparse", "function"])
def test_every_place_where_a_graph_may_name_a_file_is_seen(tmp_path, place) -> None:
    for location in ("w.data", "../w.data", "/etc/passwd"):
        path = tmp_path / "graph.onnx"
        path.write_bytes(graph_with(location, place).SerializeToString())
        assert named_by(path) == {location}


def test_a_graph_with_its_weights_inside_names_no_file(tmp_path) -> None:
    model = graph_with("w.data", "initializer")
    del model.graph.initializer[1]
    model.doc_string = "its location is here"
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    assert named_by(tmp_path / "graph.onnx") == set()
    (tmp_path / "graph.onnx").write_bytes(b"")
    assert named_by(tmp_path / "graph.onnx") == set()


@pytest.mark.parametrize("location", ["w.data", "../beside.onnx", "/etc/passwd", "image_decoder.onnx.data"])
def test_weights_without_a_hash_are_refused(folder, location) -> None:
    content = graph_with(location, "attribute").SerializeToString()
    (folder / "decode.onnx").write_bytes(content)
    assert refusal(folder, content=content) == (
        f"{folder / 'decode.onnx'}: keeps weights in '{location}', which is none of the files that the manifest has a "
        f"hash of; export the engine again"
    )
    if location == "w.data":
        (folder / "w.data").write_bytes(b"12345678")
        files = {"decode": "decode.onnx", "decode_weights": "w.data"}
        hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files.values()}
        assert sealed(folder, files, hashes).keys() == files.keys()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x3a\xff\x01location", "a field is longer than what holds it"),
        (b"\x3b\x08location", "a field is of kind 3, which ONNX has not"),
        (b"location" + b"\xff" * 9, "a field is of kind"),
        (b"\x08" + b"\xff" * 11, "a number does not end"),
        (b"\x3a", "a number does not end"),
    ],
)
def test_what_is_no_graph_is_said(folder, data, text) -> None:
    with pytest.raises(UnreadableError, match=text):
        list(locations(data))
    if b"location" in data:
        (folder / "decode.onnx").write_bytes(data)
        assert refusal(folder, content=data).startswith(f"{folder / 'decode.onnx'}: not readable ({text}")
