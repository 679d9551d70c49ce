"""`export` makes a checked graph for its target and refuses layers that the target does not compute."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from compress.core.settings import InputError, parse
from compress.models.artifact import Form
from compress.passes import PassError, find
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from export.runtime.engine import Engine
from export.targets.conformance import violations


def test_export_turns_torch_into_onnx_exactly_and_without_tokens() -> None:
    assert find("export", "recipe") is Export
    assert (Export.accepts, Export.returns, Export.exact, Export.uses_tokens) == (Form.TORCH, Form.ONNX, True, False)


def test_an_export_counts_its_nodes_and_says_what_the_model_is(tiny_model, context) -> None:
    model = tiny_model(layers=1)
    outcome = Export("onnxruntime", fixed_batch=4).run(model, context())
    made = outcome.model
    assert outcome.notes.written() == {"nodes": len(list(made.decode.graph))}
    assert (made.manifest.target, made.manifest.cache) == ("onnxruntime", "growing")
    assert (made.manifest.name, made.manifest.parameters) == (model.name, model.parameters())
    assert made.decode.graph.inputs[0].shape[0] == 4
    assert not violations(made)


def test_dynamic_activations_are_refused_for_tensorrt_with_the_layer(tiny_model, context) -> None:
    quantized = Quantize("int8", "int8", dynamic=True).run(tiny_model(layers=1), context()).model
    with pytest.raises(PassError) as error:
        Export("tensorrt").run(quantized, context())
    assert str(error.value) == (
        "export: blocks.0.attention.query: tensorrt has no dynamic int8 activations; "
        "use static ones (dynamic: false, down: same) or none"
    )


def test_a_graph_that_breaks_a_rule_is_refused_with_the_first(tiny_model, context, monkeypatch) -> None:
    made = SimpleNamespace(decode=SimpleNamespace(graph=[]), manifest=SimpleNamespace(target="standard"))
    monkeypatch.setattr("compress.passes.export.export_model", lambda *arguments, **settings: made)
    monkeypatch.setattr("export.targets.conformance.violations", lambda model: ["decode: /MatMul: first", "second"])
    with pytest.raises(PassError) as error:
        Export("standard").run(tiny_model(layers=1), context())
    assert str(error.value) == "export: the graph breaks a rule of standard: decode: /MatMul: first"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target": "tflite"}, "'tflite' is not one of 'onnxruntime', 'standard', 'tensorrt'"),
        ({}, "target"),
        ({"target": "standard", "fixed_batch": -1}, "fixed_batch"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text) -> None:
    with pytest.raises(InputError) as error:
        parse(Export, settings, "r.yaml: passes[0] export")
    assert text in str(error.value)


def test_an_engine_draws_classes_by_their_names(tiny_model, context, tmp_path) -> None:
    model = replace(tiny_model(layers=1), class_names=tuple("abcdefghij"))
    Export("onnxruntime").run(model, context()).model.save(tmp_path)
    engine = Engine.load(tmp_path)
    assert engine.shape.class_names == model.class_names
    np.testing.assert_array_equal(engine.generate(["c", 1], seed=5), engine.generate([2, 1], seed=5))
    with pytest.raises(ValueError, match="label 'k' is not a class"):
        engine.generate(["k"])
