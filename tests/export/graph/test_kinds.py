"""Engines of every kind of model compute and draw what PyTorch does, fused where that is possible and told why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compress.models.image_model import ImageModel, TorchRunner
from compress.models.transformer.examples import Examples
from export.graph.onnx_model import OnnxModel
from export.runtime.drawing import Known
from export.runtime.engine import Engine
from export.runtime.loops import make_loop
from export.runtime.sampling import Sampler
from export.targets import fuse
from export.targets.conformance import violations

KINDS = (
    "quick gelu",
    "zero prefix",
    "lead",
    "modulated",
    "text",
    "masked",
    "masked without classes",
    "u-vit",
    "class token",
    "next-scale",
    "next-scale shared",
)
# How often each fusion applies in ONNX Runtime's graph, and a part of the reason where it does not.
FUSED: dict[str, dict[str, int | str]] = {
    "quick gelu": {
        "attention": 1,
        "qkv": 1,
        "gate-up": "it is not the gate times its sigmoid",
        "norm": 2,
        "activation": "it does not multiply a value with its sigmoid",
    },
    "lead": {"attention": 2, "qkv": 2, "norm": 4, "activation": 3},
    "next-scale": {"qkv": 2},
    "zero prefix": {"attention": 1, "qkv": 1, "gate-up": 1, "norm": 2, "activation": 1},
}

Fixture = Callable[..., Any]


@pytest.fixture(scope="session")
def engines(exported: Fixture, engine_of: Fixture) -> Callable[..., Engine]:
    """Loaded engines by kind, target and whether they are fused."""
    made: dict[tuple[str, str, bool], Engine] = {}

    def get(kind: str, target: str, fused: bool = False) -> Engine:
        if (kind, target, fused) not in made:
            model: OnnxModel = exported(kind, target)
            made[kind, target, fused] = engine_of(fuse(model).model if fused else model)
        return made[kind, target, fused]

    return get


def agree(engine: Engine, model: ImageModel, batch: Examples) -> None:
    """The engine's logits are the model's, at once and step by step."""
    given = (batch.inputs, batch.features)
    expected = model.score(*given)
    assert expected.shape == (3, 16, model.shape.predicted)
    for logits in (engine.score(*given), engine.score_stepwise(*given)):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_pass_is_what_the_steps_give(model_of, examples_of, kind) -> None:
    model, batch = model_of(kind), examples_of(kind)
    given = (batch.inputs, batch.features)
    np.testing.assert_allclose(model.score_stepwise(*given), model.score(*given), rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_has_no_findings_and_computes_what_torch_does(
    exported, engines, model_of, examples_of, kind, target
) -> None:
    assert violations(exported(kind, target)) == []
    agree(engines(kind, target), model_of(kind), examples_of(kind))


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_draws_what_torch_draws(engines, model_of, examples_of, kind, fused) -> None:
    model, engine, features = model_of(kind), engines(kind, "onnxruntime", fused), examples_of(kind).features
    labels = np.arange(3) % max(model.classes, 1)
    for sampler in (
        Sampler(cfg_scale=2.5, guidance="linear", temperature=0.9, top_k=9, steps=5),
        Sampler(steps=4, reveal="halton", end_temperature=0.7),
    ):
        expected = model.draw_tokens(labels, 3, sampler, features)
        assert (engine.draw_tokens(labels, 3, sampler, features) == expected).all()
    steps = 5 if model.shape.order == "masked" else None
    guidance = 2.5 if model.classes or features is not None else None  # which needs something to guide by
    pictures = engine.generate(labels, seed=3, cfg_scale=guidance, steps=steps, features=features)
    sampler = engine.sampler.changed(cfg_scale=guidance, steps=steps)
    expected = model.decode_images(model.draw_tokens(labels, 3, sampler, features))
    assert (pictures.shape, pictures.dtype) == ((3, *model.tokenizer.picture), np.uint8)
    assert np.abs(pictures.astype(int) - expected).max() <= 1  # an autoencoder may round to the next level


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", ["masked", "u-vit", "class token"])
def test_a_step_gives_logits_of_the_positions_asked_for(
    exported, engine_of, model_of, examples_of, kind, target
) -> None:
    model, batch = model_of(kind), examples_of(kind)
    engine, positions = engine_of(exported(kind, target)), np.array([9, 0, 15])
    expected = model.score(batch.inputs, batch.features)[:, positions]
    for runner in (make_loop(engine.graphs.sessions, engine.manifest, 3), TorchRunner(model.transformer)):
        runner.begin(batch.inputs[:, 0] - model.shape.first_class, batch.features)
        found = runner.step(batch.inputs[:, 1:], positions)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["lead", "next-scale"])
def test_an_engine_encodes_what_torch_encodes(engines, model_of, kind) -> None:
    model = model_of(kind)
    images = np.random.default_rng(0).integers(0, 256, (4, *model.tokenizer.picture), dtype=np.uint8)
    found = engines(kind, "onnxruntime").encode_images(images)
    assert found.shape == (4, 16)
    assert (found == model.encode_images(images)).all()


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fused_computes_the_same_and_what_is_not_has_a_reason(
    exported, engines, model_of, examples_of, kind, target
) -> None:
    fused = fuse(exported(kind, target))
    assert violations(fused.model) == []
    for name, count in fused.counts.items():
        assert (name in fused.missed) == (count == 0)
    for name, wanted in FUSED.get(kind, {}).items() if target == "onnxruntime" else ():
        if isinstance(wanted, str):
            assert wanted in fused.missed[name]
        else:
            assert fused.counts[name] == wanted
    agree(engines(kind, target, fused=True), model_of(kind), examples_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrts_graph_keeps_its_rules_and_computes_the_same(exported, engines, model_of, examples_of, kind) -> None:
    plain = exported(kind, "tensorrt")
    assert violations(plain) == []
    assert violations(fuse(plain).model) == []
    assert plain.manifest.cache == ("none" if model_of(kind).shape.order == "masked" else "static")
    agree(engines(kind, "tensorrt"), model_of(kind), examples_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_static_cache_draws_what_torch_draws(engines, model_of, examples_of, kind) -> None:
    model, engine, features = model_of(kind), engines(kind, "tensorrt"), examples_of(kind).features
    labels, sampler = np.arange(3) % max(model.classes, 1), Sampler(cfg_scale=2.5, temperature=0.9, top_k=9, steps=5)
    for seed in (3, 4):  # the second time in the buffers of the first
        expected = model.draw_tokens(labels, seed, sampler, features)
        assert (engine.draw_tokens(labels, seed, sampler, features) == expected).all()


@pytest.mark.parametrize("kind", ["lead", "text"])
def test_a_static_cache_continues_a_prompt(engines, model_of, examples_of, kind) -> None:
    model, engine, batch = model_of(kind), engines(kind, "tensorrt"), examples_of(kind)
    known = Known(batch.targets, np.arange(16) < 6)
    given = (np.zeros(3, dtype=np.int64), 3, Sampler(cfg_scale=2.5), batch.features, known)
    found = engine.draw_tokens(*given)
    assert (found[:, :6] == batch.targets[:, :6]).all()
    assert (found == model.draw_tokens(*given)).all()


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", ["lead", "text", "masked", "next-scale"])
def test_a_fixed_batch_draws_and_scores_any_number(exported, engine_of, model_of, examples_of, kind, target) -> None:
    engine, model, batch = engine_of(exported(kind, target, fixed_batch=2)), model_of(kind), examples_of(kind)
    agree(engine, model, batch)
    labels, sampler = np.zeros(3, dtype=np.int64), Sampler(cfg_scale=2.0, steps=3)
    expected = model.draw_tokens(labels, 1, sampler, batch.features)
    assert (engine.draw_tokens(labels, 1, sampler, batch.features) == expected).all()
