"""`check-tensorrt`: what parser, builder, table and rules say of small graphs, with the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import small_graphs as small
from click.testing import Result

from compress.core.settings import InputError
from compress.verifying.tensorrt_check import check
from export.building import process
from export.graph.onnx_model import OnnxModel

TEXT = """<ir_version: 10, opset_import: ["" : 24, "com.microsoft" : 1]>
    g ({0}) => ({1}) {{ {2} }}"""


def written(folder: Path, inputs: str, outputs: str, body: str) -> Path:
    """A graph from ONNX's textual form."""
    model = onnx.parser.parse_model(TEXT.format(inputs, outputs, body))
    for node in model.graph.node:
        node.name = f"/{node.op_type}"
    path = folder / "graph.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.tensorrt_rtx
def test_a_capability_that_lacks_a_format_is_refused_and_the_others_are_built(tmp_path: Path):
    path = small.written(small.product("fp16", "fp8", both=True), tmp_path)
    found = check(path, ("8.6", "8.9"))
    (graph,) = found.graphs
    assert graph.builds == {"8.6": "refused", "8.9": "builds"}
    (said,) = graph.said
    assert (said.node, said.by, said.capabilities) == ("/weights", "table", ("8.6",))
    (shown,) = graph.evidence
    assert (shown.products, shown.low) == ({"FP8 x FP8": 1}, 1)
    assert not found.passed


@pytest.mark.tensorrt_rtx
def test_a_product_that_falls_back_to_float_is_named_with_the_cure(tmp_path: Path):
    found = check(small.written(small.product("fp16", "int4"), tmp_path), ("8.9",))
    (said,) = found.graphs[0].said
    assert (said.node, said.operator, said.by, said.refuses) == ("/product", "MatMul", "builder", False)
    assert "runs in float although its weights are quantized" in said.text
    assert "give int4 weights a group of 128" in said.cure
    assert found.passed


@pytest.mark.tensorrt_rtx
def test_what_the_parser_refuses_is_of_its_node_and_has_a_cure(tmp_path: Path):
    path = written(tmp_path, "uint8[n,2] x", "float[2,n] y", "t = Transpose(x) y = Cast<to=1>(t)")
    (graph,) = check(path, ("8.9",)).graphs
    assert graph.builds == {"8.9": "refused"}
    parser = next(each for each in graph.said if each.by == "parser")
    assert (parser.node, parser.operator) == ("/Transpose", "Transpose")
    assert "cast to float32 right behind the input" in parser.cure
    assert "cudaError" not in parser.text
    assert {each.by for each in graph.said} == {"parser", "rule"}


@pytest.mark.tensorrt_rtx
def test_a_crash_of_the_builder_is_one_finding(tmp_path: Path):
    (graph,) = check(small.written(small.crashing(), tmp_path), ("8.9",)).graphs
    crash = next(each for each in graph.said if each.by == "builder")
    assert "crashed while it built" in crash.text
    assert crash.cure
    assert any(each.by == "rule" and "Q and K of Attention are one tensor" in each.text for each in graph.said)


def test_without_the_builder_only_rules_speak_and_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "installed", lambda: "")
    path = written(tmp_path, "float[n,2] x", "float[n,2] y", "y = com.microsoft.QuickGelu(x)")
    found = check(path, ("8.9",))
    assert found.missing == (
        "only rules spoke, because TensorRT for RTX is not installed; pip install 'tensorrt-rtx-cu13==1.7.1.116', "
        "which needs no GPU"
    )
    (graph,) = found.graphs
    (said,) = graph.said
    assert (said.node, said.by, graph.builds) == ("/QuickGelu", "rule", {"8.9": "refused"})
    fine = written(tmp_path, "float[n,2] x", "float[n,2] y", "y = Relu(x)")
    assert check(fine, ("8.9",)).graphs[0].builds == {"8.9": "not known"}


def test_what_cannot_be_checked_is_one_line(tmp_path: Path):
    (tmp_path / "none.onnx").write_bytes(b"this is no graph")
    with pytest.raises(InputError, match=r"none\.onnx: .*not a readable ONNX file"):
        check(tmp_path / "none.onnx", ("8.9",))
    with pytest.raises(InputError, match=r"^--capability: 9\.0 is no compute capability"):
        check(tmp_path / "none.onnx", ("9.0",))


@pytest.mark.tensorrt_rtx
def test_the_verb_says_it_in_words_and_in_json(invoke: Callable[..., Result], tmp_path: Path):
    path = small.written(small.product("fp16", "fp8", both=True), tmp_path)
    words = invoke("check-tensorrt", path, "--capability", "8.6", "--capability", "8.9")
    assert words.exit_code == 1
    assert "8.6 refused, 8.9 builds" in words.stdout
    assert "1 of 1 quantized ones in low precision" in words.stdout
    said = invoke("check-tensorrt", path, "--capability", "8.9", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["graphs"][0]["builds"] == {"8.9": "builds"}


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
def test_every_graph_of_an_engine_is_checked(tiny_model: Callable, context: Callable, tmp_path: Path):
    from compress.passes.export import Export

    model = Export("tensorrt").run(tiny_model(layers=1, heads=4, head_width=32), context()).model
    assert isinstance(model, OnnxModel)
    model.save(tmp_path)
    found = check(tmp_path, ("8.6", "12.0"), 4)
    assert {graph.graph for graph in found.graphs} == set(model.graphs)
    assert found.passed
