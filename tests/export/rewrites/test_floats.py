"""Half precision: float16 graphs compute what float32 ones do, keep their interface, and go back and forth."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_ir import DataType

from compress.passes.engine import Engine as EnginePass
from compress.passes.fuse import Fuse
from compress.passes.hoist import Hoist
from export.rewrites.floats import narrowed, widened
from export.targets import in_floats

KINDS = ["rotary", "grouped", "learned", "lead", "modulated", "text", "masked", "u-vit", "class token", "next-scale"]
WEIGHTS = 64  # numbers of a constant that is no setting


def kl(first: np.ndarray, second: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of logits (..., V) in nats."""
    p, q = (torch.from_numpy(each).double().log_softmax(-1) for each in (first, second))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_float16_engine_is_as_near_to_float32_as_a_module_of_pytorch_in_half_precision(
    exported, engine_of, examples_of, model_of, kind
) -> None:
    given = examples_of(kind)
    exact = engine_of(exported(kind)).score(given.inputs, given.features)
    found = engine_of(in_floats(exported(kind), "float16").model).score(given.inputs, given.features)
    module = copy.deepcopy(model_of(kind).transformer).half()
    inputs, features = given.tensors()
    with torch.no_grad():
        eager = module(inputs, None if features is None else features.half()).float().numpy()
    assert found.dtype == np.float32
    assert np.abs(found - exact).mean() <= 1.5 * np.abs(eager[:, -exact.shape[1] :] - exact).mean()
    assert kl(exact, found) < 1e-5
    assert np.abs(found - exact).max() > 0  # it is another graph


@pytest.mark.parametrize("kind", ["rotary", "masked", "next-scale", "u-vit", "rotary as int8 static"])
def test_widening_and_narrowing_again_gives_the_same_bytes(exported, kind) -> None:
    half = in_floats(exported(kind), "float16").model
    again = in_floats(widened(half), "float16").model
    assert again.manifest == half.manifest
    for role, graph in half.graphs.items():
        first, second = (
            ir.to_proto(each).SerializeToString(deterministic=True) for each in (graph, again.graphs[role])
        )
        assert first == second, role


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_caches_are_half_precision_and_everything_else_that_a_user_meets_is_float32(exported, target) -> None:
    model = in_floats(exported("rotary", target), "float16").model
    graph = model.decode.graph
    types = {value.name: value.dtype for value in (*graph.inputs, *graph.outputs)}
    for name, kind in types.items():
        if name.startswith(("past.", "present.")):
            assert kind == DataType.FLOAT16
    assert types["logits"] == DataType.FLOAT
    assert (model.manifest.floats, model.manifest.cache_format) == ("float16", "float16")
    assert {value.name: value.dtype for value in model.image_decoder.graph.outputs} == {
        "images": DataType.UINT8,
        "pixels": DataType.FLOAT,
    }


def test_weights_take_half_the_bytes(exported) -> None:
    def large(model):
        return Counter(
            value.dtype for value in model.decode.graph.initializers.values() if value.const_value.size > WEIGHTS
        )

    whole, half = exported("rotary"), in_floats(exported("rotary"), "float16").model
    assert large(half)[DataType.FLOAT16] >= large(whole)[DataType.FLOAT] - 2  # but for the rotary tables
    assert large(half)[DataType.FLOAT] == 2


@pytest.mark.parametrize("kind", ["rotary", "text", "masked", "next-scale", "rotary as int4 group"])
def test_half_precision_graphs_are_sound(exported, kind) -> None:
    for target in ("standard", "tensorrt"):
        if kind in ("text", "next-scale") and target == "tensorrt":
            continue
        for graph in in_floats(exported(kind, target), "float16").model.graphs.values():
            onnx.checker.check_model(ir.to_proto(graph), full_check=True)


@pytest.mark.parametrize("kind", ["rotary", "masked", "next-scale"])
def test_passes_on_graphs_leave_half_precision_as_it_was(exported, engine_of, context, tiny_tokens, kind) -> None:
    model = in_floats(exported(kind), "float16").model
    plain = engine_of(model)
    work = context()
    made = model
    for each in (Hoist(), Fuse(), EnginePass(single_file=True)):
        made = each.run(made, work).model
        assert made.manifest.floats == "float16"
    engine = engine_of(made)
    labels = np.arange(3)
    tokens, images = engine.draw_in_one(labels, seed=4)
    assert (tokens == engine.draw_tokens(labels, seed=4)).mean() > 0.9
    assert (images == engine.decode_images(tokens)).all()
    assert (plain.draw_tokens(labels, seed=4) == tokens).mean() > 0.8


def test_a_float32_model_is_left_alone(exported) -> None:
    model = exported("rotary")
    assert narrowed(model, "float32").model is model
    assert widened(model) is model
