"""Sampling inside the graph against NumPy's, on logits alone and in whole engines of every order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.rewrites.sampling_graph import add_sampling, with_sampling, without_sampling
from export.runtime.choosing import Choice, choose
from export.runtime.errors import UnsoundLogitsError
from export.runtime.graph_drawers import GraphDrawer
from export.runtime.loops import choice_feeds
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

OUTPUTS = 50
SAMPLERS = [
    Sampler(),
    Sampler(cfg_scale=2.5),
    Sampler(cfg_scale=3.0, temperature=0.7, top_k=5),
    Sampler(top_k=500),
    Sampler(top_p=0.6),
    Sampler(cfg_scale=2.0, top_k=20, top_p=0.8, temperature=1.5),
    Sampler(cfg_scale=2.0, temperature=0.0, top_k=3, top_p=0.5),
    Sampler(cfg_scale=2.0, top_k=1),
]
# What float32 cannot hold, and the last it can.
EXTREME = [
    Sampler(top_p=1e-46),
    Sampler(temperature=1e-300, top_k=9, top_p=0.5),
    Sampler(cfg_scale=2.0, temperature=1e-20, top_k=9),
    Sampler(cfg_scale=1e6, temperature=1e6, top_p=0.9),
    Sampler(top_k=2**31 - 1, choice_temperature=1e-46),
]


def session(order: str, sampler: Sampler) -> onnxruntime.InferenceSession:
    """A graph that samples from the logits it is fed."""
    dims = ["rows", "positions", OUTPUTS]
    fed = ir.Value(name="fed", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
    node = ir.Node("", "Identity", [fed], name="logits")
    logits = node.outputs[0]
    logits.name, logits.type, logits.shape = "logits", fed.type, ir.Shape(dims)
    graph = ir.Graph([fed], [logits], nodes=[node], opset_imports={"": 23}, name="sampling")
    surest = order == "masked" and sampler.reveal != "halton"
    add_sampling(graph, Shape(order, OUTPUTS - 2 * surest, 3, (2, 2), outputs=OUTPUTS), sampler)
    proto = ir.to_proto(ir.Model(graph, ir_version=11))
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def fed(graph: onnxruntime.InferenceSession, choice: Choice) -> dict:
    taken = {each.name for each in graph.get_inputs()}
    return {name: value for name, value in choice_feeds(choice).items() if name in taken}


def logits_of(rows: int, positions: int) -> np.ndarray:
    return (3 * np.random.default_rng(1).normal(size=(rows, positions, OUTPUTS))).astype(np.float32)


@pytest.mark.parametrize("sampler", [*SAMPLERS, *EXTREME], ids=str)
@pytest.mark.parametrize("order", ["causal", "next-scale", "masked"])
def test_tokens_and_how_sure_they_are_equal_those_of_numpy(order, sampler) -> None:
    for reveal in ("confidence", "logit"):
        graph = session(order, replace(sampler, reveal=reveal))
        logits = logits_of(6 if sampler.guided else 3, 4)
        used = logits[:, -1:] if order == "causal" else logits
        for seed in range(20):
            drawn_from = OUTPUTS - 2 * (order == "masked")  # the surest never are the mask token
            choice = Choice.at(sampler, Noise(seed, 3), seed, 20, (used.shape[1], drawn_from))
            wanted = choose(used, choice, with_sureness=True)
            found = dict(
                zip(
                    [each.name for each in graph.get_outputs()],
                    graph.run(None, {"fed": logits, **fed(graph, choice)}),
                    strict=True,
                )
            )
            np.testing.assert_array_equal(found["drawn"], wanted.tokens)
            assert found["drawn"].max() < drawn_from
            if order == "masked":
                sureness = wanted.logit if reveal == "logit" else wanted.log_probability
                np.testing.assert_allclose(found["sureness"], sureness, atol=1e-5, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["rotary", "lead", "modulated", "text", "masked", "masked without classes", "next-scale"]
)
@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(top_k=9, steps=4),
        Sampler(cfg_scale=2.0, temperature=0.8, top_p=0.9, steps=5, reveal="halton"),
        Sampler(cfg_scale=2.0, steps=5, reveal="logit"),
    ],
    ids=["plain", "guided", "by logit"],
)
def test_engines_draw_the_same_tokens_inside_and_outside(kind, sampler, exported, engine_of, examples_of) -> None:
    model = exported(kind)
    model = replace(model, manifest=replace(model.manifest, sampler=sampler))
    outside, inside = engine_of(model), engine_of(with_sampling(model))
    batch = examples_of(kind)
    labels = batch.inputs[:, 0] - model.manifest.shape.first_class
    for seed in range(3):
        wanted = outside.draw_tokens(labels, seed, features=batch.features)
        np.testing.assert_array_equal(inside.draw_tokens(labels, seed, features=batch.features), wanted)
    assert isinstance(inside._drawer(inside._loop(3), sampler), GraphDrawer)
    apart, tokens = inside.compare_choices(labels, batch.features, seed=1)
    assert (apart, outside.compare_choices(labels, batch.features)) == (0, (0, 0))
    assert tokens >= wanted.size  # of a masked model, also those that are masked again
    for score in ("score", "score_stepwise"):
        given, made = (getattr(each, score)(batch.inputs, batch.features) for each in (outside, inside))
        np.testing.assert_allclose(made, given, atol=1e-6)


@pytest.mark.parametrize("own", SAMPLERS, ids=str)
def test_a_sampler_may_be_changed_after_it_was_put_into_the_graph(own, exported, engine_of) -> None:
    model = exported("rotary")
    model = replace(model, manifest=replace(model.manifest, sampler=own))
    outside, inside = engine_of(model), engine_of(with_sampling(model))
    labels = np.arange(4)
    for sampler in SAMPLERS:
        wanted = outside.draw_tokens(labels, 1, sampler)
        np.testing.assert_array_equal(inside.draw_tokens(labels, 1, sampler), wanted)
    assert isinstance(inside._drawer(inside._loop(4), Sampler()), GraphDrawer), (
        "what cuts nothing is served by every graph"
    )


@pytest.mark.parametrize("sharp", [0.0, 0.1, 30.0], ids=["none", "some", "all at once"])
def test_the_likeliest_tokens_are_found_whether_the_first_tries_are_among_them_or_not(sharp) -> None:
    """With flat logits and k = 1 the tries are nearly never among the likeliest, so the k-th is looked for."""
    sampler = Sampler(top_k=1 if sharp < 30 else 7)
    graph = session("causal", sampler)
    logits = (sharp * np.random.default_rng(3).normal(size=(4, 1, OUTPUTS))).astype(np.float32)
    for seed in range(30):
        choice = Choice.at(sampler, Noise(seed, 4), 0, 20, (1, OUTPUTS))
        drawn = graph.run(["drawn"], {"fed": logits, **fed(graph, choice)})[0]
        np.testing.assert_array_equal(drawn, choose(logits, choice).tokens)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grouped", "masked", "next-scale"])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_logits_that_hold_nan_are_an_error_and_no_picture(kind, where, exported, engine_of) -> None:
    model = exported(kind)
    weights = [each for each in model.decode.graph.initializers.values() if each.shape.rank() == 2]
    damaged = weights[-1].const_value.numpy().copy()
    damaged[:, 3] = np.nan
    weights[-1].const_value = ir.Tensor(damaged, name=weights[-1].name)
    engine = engine_of(with_sampling(model) if where == "inside" else model)
    for sampler in (Sampler(steps=2), Sampler(cfg_scale=2.0, temperature=0.0, steps=2)):
        with pytest.raises(
            UnsoundLogitsError, match=r"^the model's logits hold NaN, so nothing can be drawn from them;"
        ):
            engine.draw_tokens(np.arange(2), 0, sampler)


def test_another_way_of_revealing_is_chosen_outside(exported, engine_of) -> None:
    model = exported("masked")
    outside, inside = engine_of(model), engine_of(with_sampling(model))
    sampler = replace(model.manifest.sampler, reveal="logit", steps=4)
    labels = np.arange(2)
    np.testing.assert_array_equal(inside.draw_tokens(labels, 1, sampler), outside.draw_tokens(labels, 1, sampler))


def test_sampling_can_be_taken_out_again(exported) -> None:
    decode = exported("rotary").decode
    again = without_sampling(with_sampling(exported("rotary")).decode)
    assert [node.op_type for node in again.graph] == [node.op_type for node in decode.graph]
    assert [each.name for each in again.graph.inputs] == [each.name for each in decode.graph.inputs]
    assert set(again.graph.initializers) == set(decode.graph.initializers)
