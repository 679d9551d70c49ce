"""What a drawing notes of its calls."""

from __future__ import annotations

import numpy as np
import pytest

from compress.measure.speed.drawing import Drawing
from compress.measure.speed.timing import paired


class Meter:
    """A meter that shows a joule more at each reading."""

    def __init__(self) -> None:
        self.shown = 0

    def read(self) -> list[int]:
        self.shown += 1_000_000
        return [self.shown]

    def since(self, before: list[int]) -> float:
        return 1e-6 * (self.read()[0] - before[0])


def test_the_first_tokens_are_there_before_the_last_and_those_before_the_pictures(tiny_model) -> None:
    model = tiny_model()
    drawing = Drawing(model, np.array([1, 0]), None, Meter())
    timings = paired({"own": drawing}, 6)
    rounds = drawing.of_rounds(6)
    assert len(drawing.first) > 6, "warm-up is noted too, and left out"
    assert rounds.first.shape == rounds.last.shape == rounds.joules.shape == (6,)
    seconds = np.array(timings.seconds["own"])
    assert (rounds.first > 0).all()
    assert (2 * rounds.first < rounds.last).all(), "one step of many"
    assert (rounds.last < seconds).all()
    row = timings.row("own", runtime="torch", batch=2, length=model.length, rounds=rounds)
    assert row.first_tokens_ms == pytest.approx(1e3 * np.median(rounds.first))
    assert row.last_tokens_ms is not None
    assert row.last_tokens_ms < row.median_ms
    assert row.joules_per_picture == pytest.approx(0.5)
    assert row.joules_per_picture_ci95 == pytest.approx((0.5, 0.5))


def test_pictures_are_those_that_the_model_draws(tiny_model) -> None:
    model = tiny_model()
    np.testing.assert_array_equal(Drawing(model, np.array([1]), None)(), model.generate(np.array([1])))


def test_where_no_energy_is_read_none_is_reported(tiny_model, tmp_path) -> None:
    from compress.measure.speed.energy import Meter as Real

    drawing = Drawing(tiny_model(), np.array([1]), None, Real(tmp_path))
    row = paired({"own": drawing}, 6).row("own", runtime="torch", batch=1, length=4, rounds=drawing.of_rounds(6))
    assert row.joules_per_picture is None
