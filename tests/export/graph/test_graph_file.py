"""ONNX files that are damaged, hostile or merely odd: read, or refused in one short line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.graph.graph_file import MOST_NODES, GraphFileError, brief, load_graph

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def proto() -> onnx.ModelProto:
    """x @ weights, then Relu, in this order."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 3])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 4])
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["made"]), helper.make_node("Relu", ["made"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHTS, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def outside(location: str, **said: str) -> onnx.ModelProto:
    """The same with its weights in another file."""
    model = proto()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(WEIGHTS.nbytes), **said}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def write(folder: Path, model: onnx.ModelProto | bytes) -> Path:
    """A file of it."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def weights_in(path: Path) -> np.ndarray:
    """What was read."""
    return load_graph(path).graph.initializers["weights"].const_value.numpy()


def test_a_plain_file_is_read_and_so_are_weights_beside_it(tmp_path: Path) -> None:
    np.testing.assert_array_equal(weights_in(write(tmp_path, proto())), WEIGHTS)
    (tmp_path / "w.data").write_bytes(b"...." + WEIGHTS.tobytes())
    np.testing.assert_array_equal(weights_in(write(tmp_path, outside("w.data", offset="4"))), WEIGHTS)


def test_a_cache_of_links_is_read_as_its_files_are(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "22").write_bytes(WEIGHTS.tobytes())
    write(tmp_path, outside("model.onnx_data")).rename(blobs / "11")
    for name, blob in (("model.onnx", "11"), ("model.onnx_data", "22")):
        (snapshot / name).symlink_to(f"../../../blobs/{blob}")
    np.testing.assert_array_equal(weights_in(snapshot / "model.onnx"), WEIGHTS)


def test_weights_may_have_several_names(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    os.link(tmp_path / "w.data", tmp_path / "backup")
    np.testing.assert_array_equal(weights_in(write(tmp_path, outside("w.data"))), WEIGHTS)


def test_constants_of_nodes_outside_the_file_are_brought_inside(tmp_path: Path) -> None:
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    model = outside("w.data")
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weights"], value=tensor))
    (tmp_path / "w.data").write_bytes(WEIGHTS.tobytes())
    node = next(iter(load_graph(write(tmp_path, model)).graph))
    (tmp_path / "w.data").unlink()
    np.testing.assert_array_equal(node.attributes["value"].as_tensor().numpy(), WEIGHTS)


def test_nodes_in_any_order_are_sorted(tmp_path: Path) -> None:
    model = proto()
    model.graph.node.reverse()
    assert [node.op_type for node in load_graph(write(tmp_path, model)).graph] == ["MatMul", "Relu"]


def edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    """The plain graph with something changed."""
    model = proto()
    edit(model)
    return model


def circle(model: onnx.ModelProto) -> None:
    """Two nodes that read each other."""
    model.graph.node[0].input[0] = "y"


def bomb(model: onnx.ModelProto) -> None:
    """Sixty functions, each of which calls the one before twice: 2^60 nodes."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    for number in range(60):
        op, domain = ("Relu", "") if not number else (f"f{number - 1}", "f")
        nodes = [helper.make_node(op, [a], [b], domain=domain) for a, b in (("a", "t"), ("t", "b"))]
        model.functions.append(helper.make_function("f", f"f{number}", ["a"], ["b"], nodes, imports))
    model.graph.node[1].op_type, model.graph.node[1].domain = "f59", "f"


def endless(model: onnx.ModelProto) -> None:
    """A function that calls itself."""
    imports = [helper.make_opsetid("f", 1)]
    nodes = [helper.make_node("f", ["a"], ["b"], domain="f")]
    model.functions.append(helper.make_function("f", "f", ["a"], ["b"], nodes, imports))
    model.graph.node[1].op_type, model.graph.node[1].domain = "f", "f"


def weights(**changes: object) -> Callable[[onnx.ModelProto], None]:
    """Other fields of the weights."""

    def edit(model: onnx.ModelProto) -> None:
        for name, value in changes.items():
            if name == "dims":
                model.graph.initializer[0].dims[:] = value
            else:
                setattr(model.graph.initializer[0], name, value)

    return edit


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a readable ONNX file (a file of another kind, or one that was cut short or damaged)"),
        (proto().SerializeToString()[:-9], "not a readable ONNX file (a file of another kind"),
        (proto().graph.SerializeToString(), "it holds no graph with nodes"),
        (edited(lambda model: model.graph.ClearField("output")), "the graph has no outputs"),
        (edited(weights(dims=[-3, 4])), "constant weights has the shape (-3, 4); sizes are from 0"),
        (edited(weights(dims=[2**62, 4])), "but 48 are there"),
        (edited(weights(dims=[1] * 65)), "constant weights has 65 axes; at most 64 are read"),
        (edited(weights(raw_data=b"1234")), "(3, 4), which is 48 bytes, but 4 are there"),
        (edited(lambda model: model.graph.initializer[0].ClearField("raw_data")), "12 numbers, but 0 are there"),
        (edited(weights(data_type=77)), "constant weights is of the unknown number format 77"),
        (edited(lambda model: model.graph.sparse_initializer.add()), "it holds sparse constants, which are not read"),
        (edited(lambda model: model.graph.initializer.append(model.graph.initializer[0])), "are called weights"),
        (edited(lambda model: model.graph.output.append(model.graph.output[0])), "two of its values are called y"),
        (edited(lambda model: model.graph.node.append(model.graph.node[0])), "two of its values are called made"),
        (edited(lambda model: model.graph.node[0].input.append("q")), "value q is read, but nothing makes it"),
        (edited(circle), "its nodes wait for each other in a circle, so none can run first"),
        (edited(bomb), f"more than 1,000,000,000,000 nodes with its functions written out; at most {MOST_NODES:,}"),
        (edited(endless), "its function f calls itself"),
        (outside("../w.data"), "lies in ../w.data, outside the folder of the graph; put the weights beside it"),
        (outside("/etc/passwd"), "lies in /etc/passwd, outside the folder of the graph"),
        (outside("link.data"), "lies in link.data, outside the folder of the graph"),
        (outside(""), "lies outside the file, which does not say where"),
        (outside("none.data"), "lies in none.data beside the file: cannot be read (No such file or directory)"),
        (outside("pipe.data"), "lies in pipe.data beside the file: is no plain file"),
        (outside("short.data"), "needs 48 bytes of short.data from byte 0 on (length 48), but that file has 5"),
        (outside("short.data", offset="-1"), "from byte -1 on"),
        (outside("short.data", offset="x"), "from byte x on"),
        (outside("short.data", length="4"), "(length 4)"),
    ],
)
def test_what_is_wrong_is_one_short_line(tmp_path: Path, content: onnx.ModelProto | bytes, words: str) -> None:
    (tmp_path / "short.data").write_bytes(b"12345")
    (tmp_path / "link.data").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.data")
    path = write(tmp_path, content)
    with pytest.raises(GraphFileError) as error:
        load_graph(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))


def test_what_is_no_plain_file_or_too_large_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**31 + 1)
    for name, words in (("pipe", "is no plain file"), ("large", "has 2.0 GiB; an ONNX file ends at 2 GiB"),
                        ("none", "cannot be read (No such file")):  # fmt: skip
        with pytest.raises(GraphFileError, match=words.replace("(", r"\(")):
            load_graph(tmp_path / name)


def test_values_of_a_file_are_shown_short_and_on_one_line() -> None:
    assert brief("a" * 1000) == "a" * 197 + "..."
    assert brief("one\ntwo") == "'one\\ntwo'"
