"""Guidance in an interval: one row for each picture outside of it, and the pictures of two rows at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import hoist
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime import engine as module
from export.runtime import sparing
from export.runtime.drawing import Known, draw
from export.runtime.engine import Engine
from export.runtime.manifest import GENERATE
from export.runtime.sampling import Sampler
from export.runtime.sparing import SparingDrawer
from export.runtime.throughput import drawing_bytes
from export.targets import fuse

INTERVALS = ((0, 3), (2, None), (1, 4))
MAKING: dict[str, tuple[str, Callable[[OnnxModel], OnnxModel]]] = {
    "growing": ("rotary", lambda model: model),
    "shared": ("rotary", lambda model: fuse(model).model),
    "in the graph": ("grouped", lambda model: with_sampling(fuse(model).model)),
    "modulated": ("modulated", lambda model: hoist(model).model),
    "text": ("text", lambda model: hoist(model).model),
    "next-scale": ("next-scale", lambda model: with_sampling(model)),
    "masked": ("masked", lambda model: with_sampling(hoist(model).model)),
}


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[SparingDrawer]:
    """Every drawer that is made to spare rows."""
    made: list[SparingDrawer] = []

    class Noted(SparingDrawer):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(module, "SparingDrawer", Noted)
    return made


def with_two_rows(
    engine: Engine, labels: NDArray[np.int64], sampler: Sampler, features: NDArray[np.float32] | None, **more: object
) -> NDArray[np.int64]:
    """What is drawn with two rows at every step."""
    with engine._lent(2 * len(labels)) as loop:
        return draw(engine._drawer(loop, sampler), labels, engine.shape, sampler, 3, features, **more)


def rows(start: int, stop: int | None, steps: int, pictures: int) -> list[int]:
    """Rows of each step."""
    return [pictures * (2 if start <= step < (stop or steps) else 1) for step in range(steps)]


@pytest.mark.parametrize("kind", MAKING)
def test_pictures_are_those_of_two_rows_at_every_step(
    kind, exported, engine_of, examples_of, noted, monkeypatch
) -> None:
    monkeypatch.setattr(sparing, "CATCH_UP", 1)
    name, make = MAKING[kind]
    engine, batch = engine_of(make(exported(name))), examples_of(name)
    labels, features = batch.inputs[:, 0] - engine.shape.first_class, batch.features
    for start, stop in INTERVALS:
        sampler = Sampler(cfg_scale=3.0, temperature=0.9, steps=5, guidance_start=start, guidance_stop=stop)
        for way in ("halton", "confidence") if kind == "masked" else ("confidence",):
            sampler = replace(sampler, reveal=way)
            wanted = with_two_rows(engine, labels, sampler, features)
            np.testing.assert_array_equal(engine.draw_tokens(labels, 3, sampler, features), wanted)
            steps = engine.shape.drawing.steps(engine.shape, sampler)
            begins = 0 if kind == "next-scale" else start  # it cannot catch up, so it has both rows from the first step
            assert noted[-1].rows_of_steps == rows(begins, stop, steps, len(labels))
    always = replace(sampler, guidance_start=0, guidance_stop=None)
    assert (engine.draw_tokens(labels, 3, always, features) != wanted).any(), "the interval changes something"


@pytest.mark.parametrize("start", [0, 2])
def test_given_tokens_stay_and_are_read_without_class_too(start, exported, engine_of, noted, monkeypatch) -> None:
    monkeypatch.setattr(sparing, "CATCH_UP", 1)
    engine, labels = engine_of(fuse(exported("rotary")).model), np.array([1, 4])
    known = Known(np.random.default_rng(0).integers(0, 17, (2, 16)), np.arange(16) < 5)
    for first in (5, 5 + start, 9):
        sampler = Sampler(cfg_scale=3.0, guidance_start=first, guidance_stop=12)
        wanted = with_two_rows(engine, labels, sampler, None, known=known)
        np.testing.assert_array_equal(engine.draw_tokens(labels, 3, sampler, known=known), wanted)
        assert noted[-1].rows_of_steps == rows(first, 12, 16, 2)[5:]


def test_few_pictures_of_a_causal_model_have_both_rows_until_guidance_ends(exported, engine_of, noted) -> None:
    engine = engine_of(exported("rotary"))
    for pictures, begins in ((3, 0), (4, 5)):
        labels, sampler = np.arange(pictures), Sampler(cfg_scale=3.0, guidance_start=5, guidance_stop=9)
        wanted = with_two_rows(engine, labels, sampler, None)
        np.testing.assert_array_equal(engine.draw_tokens(labels, 3, sampler), wanted)
        assert noted[-1].rows_of_steps == rows(begins, 9, 16, pictures)


def test_engines_of_a_fixed_batch_and_of_other_devices_have_two_rows_throughout(exported, engine_of, noted) -> None:
    model = exported("rotary")
    engine = engine_of(model)
    sampler = Sampler(cfg_scale=3.0, guidance_stop=4)
    wanted = engine.draw_tokens(np.array([1]), 3, sampler)
    assert len(noted) == 1
    engine.manifest = replace(engine.manifest, fixed_batch=2)
    engine.lending.idle.clear()
    assert (engine.draw_tokens(np.array([1]), 3, sampler) == wanted).all()
    assert len(noted) == 1


def test_without_an_interval_nothing_is_spared(exported, engine_of, noted) -> None:
    engine = engine_of(exported("rotary"))
    engine.draw_tokens(np.array([1]), 3, Sampler(cfg_scale=3.0, guidance="linear"))
    engine.draw_tokens(np.array([1]), 3, Sampler(guidance_stop=3))
    assert noted == []


@pytest.mark.parametrize("kind", ["rotary", "masked"])
def test_one_file_draws_the_same(kind, exported, engine_of) -> None:
    model = exported(kind)
    sampler = Sampler(cfg_scale=3.0, steps=5, guidance_start=1, guidance_stop=4)
    files = {**model.manifest.files, "generate": GENERATE}
    model = replace(model, manifest=replace(model.manifest, sampler=sampler, files=files))
    engine = engine_of(replace(model, generate=single_file(model)))
    tokens, _ = engine.draw_in_one(np.arange(3), 4)
    np.testing.assert_array_equal(tokens, engine.draw_tokens(np.arange(3), 4))


def test_memory_of_all_loops_is_counted(exported) -> None:
    shape = exported("rotary").manifest.shape
    sizes = [drawing_bytes(shape, each, 100) for each in (Sampler(), Sampler(cfg_scale=2.0, guidance_stop=3))]
    assert sizes[1] == 4 * sizes[0]
