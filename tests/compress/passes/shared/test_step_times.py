"""Times of a step from a table: worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compress.measure.statistics import Estimate
from compress.models.transformer.architecture import LayerConfig
from compress.passes.shared import step_times
from compress.passes.shared.step_times import (
    FINER,
    STATIC,
    Curve,
    Deployment,
    Step,
    StepClock,
    StepTimes,
    measured,
    rising,
    spaced,
    step_of,
)
from export.runtime.sampling import Sampler

LAYERS = [LayerConfig(4, 4, 40), LayerConfig(2, 2, 20)]
TIMES = StepTimes({1: Curve((1, 2, 4), (1.0, 2.0, 3.0))}, Curve((1, 41), (1.0, 5.0)))


def test_a_step_is_the_sum_of_its_parts_and_its_rest():
    # heads 4 and 2: 3 + 2; units 40 and 20, straight between 1 and 41: 4.9 + 2.9
    assert TIMES.of(LAYERS) == pytest.approx(12.8)
    assert TIMES.beside(LAYERS, 15.0).rest == pytest.approx(2.2)
    assert TIMES.beside(LAYERS, 15.0).of(LAYERS) == pytest.approx(15.0)
    assert TIMES.beside(LAYERS, 10.0).rest == 0
    assert TIMES.attention(LayerConfig(4, 4, 40), 3) == pytest.approx(2.5)


def test_the_table_names_what_was_timed():
    assert TIMES.table() == {
        "heads 1": 1.0, "heads 2": 2.0, "heads 4": 3.0, "units 1": 1.0, "units 41": 5.0, "rest": 0.0,
    }  # fmt: skip


def test_more_never_takes_less():
    assert rising({1: 1.0, 2: 4.0, 3: 2.0, 4: 5.0}) == Curve((1, 2, 3, 4), (1.0, 3.0, 3.0, 5.0))
    assert spaced(3) == [1, 2, 3]
    assert spaced(17) == [1, 3, 5, 7, 9, 11, 13, 15, 17]


@pytest.mark.parametrize(
    ("changes", "sampler", "step"),
    [
        ({}, Sampler(cfg_scale=1.5), Step(rows=6, sequences=6, queries=1, positions=33)),  # 1 + 64 / 2 of 64 tokens
        ({}, Sampler(cfg_scale=1.0), Step(rows=3, sequences=3, queries=1, positions=33)),
        (
            {"order": "masked", "positions": "learned", "registers": 2},
            Sampler(cfg_scale=1.5),
            Step(rows=6 * 66, sequences=6, queries=66, positions=66),
        ),
    ],
)
def test_a_step_works_on_rows_of_both_branches(tiny_model, changes, sampler, step):
    assert step_of(tiny_model(**changes).transformer.config, sampler, 3) == step


def test_a_next_scale_model_has_a_mean_step(any_model):
    config = any_model.transformer.config
    if config.drawing.scaled:  # scales of 1, 1, 4, 9 and 49 tokens end at 1, 2, 6, 15 and 64
        assert step_of(config, Sampler(cfg_scale=1.0), 1) == Step(rows=13, sequences=1, queries=13, positions=18)


@pytest.mark.parametrize(("form", "static", "finer"), [("float32", None, None), ("int8", STATIC, FINER)])
def test_products_are_timed_as_engines_join_them(tiny_model, monkeypatch, form, static, finer):
    def ones(kernels, threads):
        assert threads == 3
        seen.extend(kernels)
        return dict.fromkeys(kernels, Estimate(1.0, 1.0, 1.0))

    seen: list = []
    monkeypatch.setattr(step_times.kernels, "milliseconds", ones)
    monkeypatch.setattr(step_times.attention, "milliseconds", ones)
    config = tiny_model(kv_heads=2, ffn=2).transformer.config
    times = measured(config, Sampler(cfg_scale=1.0), Deployment(form, 1, 3))
    assert times.heads == {2: Curve((1, 2), (3.0, 3.0))}, "queries, keys and values; attention; output"
    assert times.units == Curve((1, 2), (2.0, 2.0)), "gate and up; down"
    assert {(each.inputs, each.outputs, each.spec) for each in seen if hasattr(each, "spec")} == {
        (32, 4 * 8, static), (2 * 8, 32, static), (32, 4 * 16, static), (2 * 16, 32, static),
        (32, 2, static), (1, 32, finer), (32, 4, static), (2, 32, finer),
    }  # fmt: skip


def test_a_clock_notes_an_undisturbed_step(tiny_model, monkeypatch):
    ticks = iter([0.0, 5.0, 6.0, 7.0, 8.0, 99.0])
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(ticks))
    engine = SimpleNamespace(
        shape=tiny_model().shape, draw_tokens=lambda labels, features, on_step: [on_step() for _ in range(5)]
    )
    clock = StepClock(engine, 1)
    clock()
    assert clock.seconds == [1.0], "the first call and one that was interrupted do not count"
