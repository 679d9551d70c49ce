"""`quantize-onnx` works on every graph, says what it did, and what does not go together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from compress.core.settings import InputError, parse
from compress.models.artifact import Form
from compress.models.transformer.examples import examples
from compress.passes import PassError, find
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.quantize_onnx import QuantizeOnnx
from export.graph.onnx_model import OnnxModel
from export.rewrites.ort_quantization import Quantized
from export.runtime.engine import Engine


@pytest.fixture(scope="module")
def held() -> dict[str, OnnxModel]:
    """Exported models of these tests."""
    return {}


@pytest.fixture
def model(held, tiny_model, context) -> OnnxModel:
    """An own model, exported for ONNX Runtime and fused."""
    if "own" not in held:
        exported = Export("onnxruntime").run(tiny_model(head_width=16, heads=2), context()).model
        held["own"] = Fuse().run(exported, context()).model
    return held["own"]


def test_it_takes_and_gives_onnx_and_needs_no_tokens() -> None:
    assert find("quantize-onnx", "recipe") is QuantizeOnnx
    found = (QuantizeOnnx.accepts, QuantizeOnnx.returns, QuantizeOnnx.exact, QuantizeOnnx.uses_tokens)
    assert found == (Form.ONNX, Form.ONNX, False, False)


@pytest.mark.parametrize(
    ("settings", "near"),
    [({}, 0.05), ({"weights": "int4"}, 0.4), ({"activations": "int8"}, 0.05), ({"head": True}, 0.05)],
)
def test_logits_move_little_in_one_call_and_step_by_step(
    model, context, tiny_tokens, tmp_path, settings, near: float
) -> None:
    outcome = QuantizeOnnx(**settings).run(model, context())
    batch = examples(model.manifest.shape, tiny_tokens.part("held_out"))
    scores = []
    for name, made in (("exact", model), ("quantized", outcome.model)):
        (tmp_path / name).mkdir()
        made.save(tmp_path / name)
        scores.append(Engine.load(tmp_path / name, threads=1))
    exact, moved = (engine.score(batch.inputs) for engine in scores)
    assert 0 < (exact - moved).std() < near * exact.std()
    np.testing.assert_allclose(scores[1].score_stepwise(batch.inputs[:8]), moved[:8], atol=1e-4)


def test_the_notes_count_products(model, context) -> None:
    products = sum(node.op_type == "MatMul" for node in model.decode.graph)
    assert QuantizeOnnx().run(model, context()).notes.written() == {"products": products - 1, "left_in_float": 1}
    assert QuantizeOnnx(head=True).run(model, context()).notes.written() == {"products": products, "left_in_float": 0}


def test_what_rounds_inputs_by_the_call_is_scored_in_the_calls_of_drawing(model, context) -> None:
    for activations in ("int8", "none"):
        assert QuantizeOnnx(activations=activations).run(model, context()).model.manifest.call_scaled
    assert not model.manifest.call_scaled


def test_a_quantized_graph_is_not_quantized_again(model, context) -> None:
    once = QuantizeOnnx(head=True).run(model, context()).model
    words = "quantize-onnx: 9 MatMulNBits are quantized already; begin with the graph in float"
    with pytest.raises(PassError, match=words):
        QuantizeOnnx(head=True).run(once, context())


def test_other_targets_run_only_what_they_know(tiny_model, context) -> None:
    plain = Export("standard").run(tiny_model(layers=1), context()).model
    QuantizeOnnx(activations="int8").run(plain, context())
    with pytest.raises(PassError, match=r"the graph breaks a rule of standard: .*MatMulNBits"):
        QuantizeOnnx().run(plain, context())
    static = Export("tensorrt").run(tiny_model(layers=1), context()).model
    with pytest.raises(PassError, match="for tensorrt put quantize before the export"):
        QuantizeOnnx().run(static, context())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": "int4", "activations": "int8"}, "ONNX Runtime has no such product; use activations: none"),
        ({"group": 48}, "group 48: MatMulNBits takes powers of two, 16 to 256"),
        ({"group": 8}, "must be between 16 and 256"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(QuantizeOnnx, settings, "r.yaml:")


def test_a_graph_that_does_not_run_is_one_line(model, context, monkeypatch) -> None:
    def broken(decode, **settings):
        made = decode.clone()
        next(node for node in made.graph if node.op_type == "MatMul").op_type = "Mul"
        return Quantized(made, 1, 0)

    monkeypatch.setattr("compress.passes.quantize_onnx.quantize_weights", broken)
    monkeypatch.setattr("export.targets.conformance.violations", lambda model: [])
    with pytest.raises(PassError, match="ONNX Runtime does not run what its own tools made") as error:
        QuantizeOnnx().run(model, context())
    assert "\n" not in str(error.value)


def test_logits_that_are_not_finite_are_one_line(model, context, monkeypatch) -> None:
    def broken(decode, **settings):
        made = decode.clone()
        weight = made.graph.initializers["embedding.weight"]
        weight.const_value = ir.tensor(np.full(weight.const_value.shape, np.nan, np.float32), name="embedding.weight")
        return Quantized(made, 1, 0)

    monkeypatch.setattr("compress.passes.quantize_onnx.quantize_weights", broken)
    with pytest.raises(PassError, match="its logits hold NaN or Inf"):
        QuantizeOnnx().run(model, context())
