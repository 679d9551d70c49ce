"""What one file costs is the paired ratio of its time to the engine's."""

from __future__ import annotations

import numpy as np
import pytest

from compress.measure.speed import single_file as module
from compress.measure.speed.single_file import single_file
from compress.measure.speed.timing import Timings


class Drawer:
    """An engine that draws both ways."""

    def draw_in_one(self, labels, seed, features):
        return np.zeros((2, 3)), np.zeros((2, 3))

    def draw_tokens(self, labels, seed, features=None):
        return np.zeros((2, 3))

    def decode_images(self, tokens):
        return tokens


def test_times_are_compared_round_by_round(monkeypatch) -> None:
    seconds = {"one": (0.3,) * 6, "steps": (0.2,) * 6}
    monkeypatch.setattr(
        module, "paired", lambda runners, repeats, seed: [run() for run in runners.values()] and Timings(seconds)
    )
    found = single_file(Drawer(), np.zeros(2, dtype=np.int64), None, 6, 0)
    assert found.median_ms == pytest.approx(300)
    assert found.ratio == pytest.approx(1.5)
    assert found.ratio_ci95 == pytest.approx((1.5, 1.5))
