"""Graphs that do not take and give what their manifest says are refused when they are opened, in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import hoist
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.engine import Engine, EngineError
from export.runtime.graphs import Graphs
from export.runtime.manifest import GENERATE
from export.runtime.promises import broken
from export.targets import fuse

Change = dict[str, Any]


def refusal(model: OnnxModel, folder: Path, **changes: Any) -> str:
    """Why an engine is refused whose manifest says something else, without its folder."""
    model.save(folder)
    replace(model.manifest, **changes).save(folder)
    with pytest.raises(EngineError) as error:
        Engine.load(folder, threads=1)
    return str(error.value).removeprefix(f"{folder}/")


def shaped(model: OnnxModel, **changes: Any) -> Change:
    """Another shape."""
    return {"shape": replace(model.manifest.shape, **changes)}


CASES: list[tuple[str, Callable[[OnnxModel], Change], str]] = [
    ("grouped", lambda model: {"kv_heads": (1, 2)}, "decode.onnx: its input 'past.1.key' is (any, 1, any, 16); the"),
    ("grouped", lambda model: {"kv_heads": (1, 1, 1)}, "decode.onnx: has no input 'past.2.key', which the manifest"),
    ("grouped", lambda model: {"kv_heads": (1,)}, "decode.onnx: takes an input 'past.1.key', which nothing feeds"),
    ("grouped", lambda model: {"head_width": 8}, "decode.onnx: its input 'past.0.key' is (any, 1, any, 16); the"),
    (
        "grouped",
        lambda model: {"cache": "shared"},
        "decode.onnx: has no input 'seqlens_k', which the manifest",
    ),
    ("grouped", lambda model: {"cache": "static"}, "decode.onnx: has no input 'position', which the manifest promises"),
    ("grouped", lambda model: {"cache": "none"}, "decode.onnx: takes an input 'past.0.key', which nothing feeds"),
    (
        "grouped",
        lambda model: {"cache_format": "float16"},
        "decode.onnx: its input 'past.0.key' is tensor(float); the manifest promises tensor(float16)",
    ),
    ("grouped", lambda model: {"sampling": True}, "decode.onnx: has no input 'noise', which the manifest promises"),
    ("grouped", lambda model: {"fixed_batch": 2}, "decode.onnx: takes any number of rows; fixed_batch of the manifest"),
    (
        "grouped",
        lambda model: shaped(model, vocabulary=18),
        "decode.onnx: its output 'logits' is (any, any, 17); the manifest promises (any, any, 18)",
    ),
    (
        "grouped",
        lambda model: shaped(model, grid=(4, 5)),
        "image_decoder.onnx: its input 'tokens' is (any, 16); the manifest promises (any, 20)",
    ),
    (
        "masked",
        lambda model: shaped(model, grid=(4, 5)),
        "decode.onnx: its input 'tokens' is (any, 16); the manifest promises (any, 20)",
    ),
    (
        "next-scale",
        lambda model: shaped(model, latent_width=7),
        "scales.onnx: its output 'latents' is (any, 15, 6); the manifest promises (any, any, 7)",
    ),
    ("masked", lambda model: shaped(model, order="causal"), "decode.onnx: takes an input 'positions', which nothing"),
]


@pytest.mark.parametrize(("kind", "change", "text"), CASES, ids=range(len(CASES)))
def test_a_manifest_that_is_not_of_its_graphs_is_refused(kind, change, text, exported, tmp_path) -> None:
    model = exported(kind)
    found = refusal(model, tmp_path, **change(model))
    assert found.startswith(text)
    assert found.endswith("; export the engine again")
    assert "\n" not in found


def test_a_batch_that_is_fixed_in_the_graph_alone_is_refused(exported, tmp_path) -> None:
    assert refusal(exported("grouped", fixed_batch=2), tmp_path, fixed_batch=0).startswith(
        "decode.onnx: takes 2 rows; fixed_batch of the manifest says any number of rows"
    )


def test_two_graphs_in_each_others_place_are_refused(exported, tmp_path) -> None:
    model = exported("grouped")
    files = {**model.manifest.files, "decode": "image_decoder.onnx", "image_decoder": "decode.onnx"}
    assert refusal(model, tmp_path, files=files).startswith("image_decoder.onnx: has no input 'past.0.key'")


@pytest.mark.parametrize("kind", ["lead", "modulated", "text", "masked", "u-vit", "next-scale"])
def test_every_engine_keeps_its_promises_sampled_hoisted_fused_or_in_one_file(kind, exported, engine_of) -> None:
    model = with_sampling(fuse(hoist(exported(kind)).model).model)
    files = {**model.manifest.files, "generate": GENERATE}
    model = replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files))
    engine = engine_of(model)
    for role in ("generate", "image_encoder"):
        if role in files:
            engine.graphs.opened(role, "is not there")


@dataclass
class Value:
    """An input or output."""

    name: str
    type: str
    shape: list[Any]


@dataclass
class Graph:
    """An opened graph."""

    inputs: list[Value]
    outputs: list[Value]

    def get_inputs(self) -> list[Value]:
        return self.inputs

    def get_outputs(self) -> list[Value]:
        return self.outputs


@pytest.mark.parametrize("sizes", [["n", 4, 4], ["n", "h", 4, 1], ["n", 0, 4, 1], ["n", 4, 2**17, 1], []])
def test_pictures_of_no_known_size_are_refused(sizes, exported) -> None:
    graph = Graph([Value("tokens", "tensor(int64)", ["n", 16])], [Value("images", "tensor(uint8)", sizes)])
    found = broken(exported("grouped").manifest, "image_decoder", graph)
    assert found is not None
    assert found.startswith("its output 'images' is (")


def test_what_runs_before_the_steps_gives_sizes_that_are_known(exported) -> None:
    graph = Graph([Value("labels", "tensor(int64)", ["n"])], [Value("begin.a", "tensor(float)", ["n", "m"])])
    assert broken(exported("lead").manifest, "begin", graph) == (
        "its output 'begin.a' is (any, any); all sizes but that of the rows have to be known"
    )


def broken_graph(name: str) -> bytes:
    """A graph that ONNX Runtime refuses to load, or to run."""
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["n", 16])
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 4, 4, 1])
    opset = helper.make_opsetid("", 9999 if name == "opset" else 21)
    if name == "steps":
        shape = onnx.numpy_helper.from_array(np.array([3, 4, 4, 1]), "shape")
        nodes = [
            helper.make_node("Cast", ["tokens"], ["bytes"], to=TensorProto.UINT8),
            helper.make_node("Reshape", ["bytes", "shape"], ["images"]),
        ]
        graph = helper.make_graph(nodes, "g", [tokens], [images], [shape])
    else:
        kind = "Nonsense" if name == "operator" else "Cast"
        node = helper.make_node(kind, ["tokens"], ["images"], **({} if name == "operator" else {"to": 2}))
        graph = helper.make_graph([node], "g", [tokens], [images])
    content = helper.make_model(graph, opset_imports=[opset]).SerializeToString()
    return content[: len(content) // 2] if name == "cut" else content


@pytest.mark.parametrize("name", ["opset", "operator", "cut", "steps"])
def test_a_graph_that_onnx_runtime_refuses_is_said_in_one_line(name, exported, tmp_path, capfd) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    (tmp_path / "image_decoder.onnx").write_bytes(broken_graph(name))
    model.manifest.save(tmp_path)
    with pytest.raises(EngineError) as error:
        Engine.load(tmp_path, threads=1).generate([1])
    verb = "run" if name == "steps" else "load"
    assert str(error.value).startswith(f"{tmp_path / 'image_decoder.onnx'}: ONNX Runtime cannot {verb} it (")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 300
    assert capfd.readouterr() == ("", "")  # nor does ONNX Runtime write it once more


@pytest.mark.parametrize("name", [b"tokens", b"images", b"batch"], ids=["input", "output", "size"])
def test_a_name_that_is_not_text_is_said_in_one_line(name, exported, tmp_path) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    graph = tmp_path / "image_decoder.onnx"
    assert name in graph.read_bytes()
    graph.write_bytes(graph.read_bytes().replace(name, b"\xff\xfe" + name[2:]))
    model.manifest.save(tmp_path)
    with pytest.raises(EngineError, match=r"image_decoder\.onnx: damaged: a name in it is not UTF-8 \(.*0xff"):
        Engine.load(tmp_path, threads=1)


def test_a_fault_at_a_node_whose_name_is_not_text_is_said_in_one_line(exported, tmp_path, capfd) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    (tmp_path / "image_decoder.onnx").write_bytes(broken_graph("steps").replace(b"shape", b"sha\xff\xfe"))
    model.manifest.save(tmp_path)
    with pytest.raises(EngineError, match=r"image_decoder\.onnx: damaged: a name in it is not UTF-8 \("):
        Engine.load(tmp_path, threads=1)
    assert capfd.readouterr() == ("", "")


def test_weights_that_were_exchanged_while_the_engine_opened_them_are_noticed(exported, tmp_path, monkeypatch) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    graph, opened = tmp_path / "decode.onnx", Graphs.open

    def exchanged(graphs: Graphs, file: str, *given: Any, **named: Any) -> Any:
        session = opened(graphs, file, *given, **named)
        if file == "decode":
            other = tmp_path / "other"
            other.write_bytes(graph.read_bytes() + b"\x00")
            other.replace(graph)
        return session

    monkeypatch.setattr(Graphs, "open", exchanged)
    with pytest.raises(EngineError) as error:
        Engine.load(tmp_path, threads=1)
    assert str(error.value) == f"{graph}: was changed while it was opened; load the engine again"


def test_an_engine_whose_graph_keeps_weights_elsewhere_is_refused(exported, tmp_path) -> None:
    model = exported("grouped")
    model.save(tmp_path)
    proto = onnx.load(tmp_path / "decode.onnx")
    onnx.save(proto, tmp_path / "decode.onnx", save_as_external_data=True, location="hidden.bin", size_threshold=0)
    model.manifest.save(tmp_path)
    with pytest.raises(EngineError) as error:
        Engine.load(tmp_path, threads=1)
    assert str(error.value).startswith(f"{tmp_path / 'decode.onnx'}: keeps weights in 'hidden.bin', which is none of")
