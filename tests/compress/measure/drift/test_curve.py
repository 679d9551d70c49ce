import numpy as np
import pytest

from compress.measure.drift.curve import curve
from export.runtime.shape import Shape


def test_positions_are_points_of_their_own_while_they_are_few():
    kl = np.arange(12.0).reshape(3, 4)
    found = curve(kl, np.ones((3, 4), dtype=bool), Shape("causal", 5, 2, (2, 2)))
    assert (found.axis, found.at) == ("position", (0, 1, 2, 3))
    assert found.kl == pytest.approx((4, 5, 6, 7))
    assert all(low <= value <= high for low, value, high in zip(found.kl_low, found.kl, found.kl_high, strict=True))


def test_many_positions_are_put_together():
    kl = np.tile(np.arange(256.0), (2, 1))
    found = curve(kl, np.ones(kl.shape, dtype=bool), None)
    assert len(found.at) == 64
    assert found.at[:2] == (1.5, 5.5)
    assert found.kl == found.at == found.kl_low, "the same in every picture, so the interval has no width"


def test_scales_are_points():
    shape = Shape("next-scale", 5, 2, (2, 2), scales=(1, 2))
    found = curve(np.array([[1.0, 2, 3, 4, 7], [3.0, 2, 3, 4, 7]]), np.ones((2, 5), dtype=bool), shape)
    assert (found.axis, found.at, found.kl) == ("scale", (0, 1), (2, 4))


def test_masked_pictures_are_sorted_by_how_much_is_masked():
    shape = Shape("masked", 5, 2, (2, 2))
    scored = np.zeros((8, 4), dtype=bool)
    scored[::2, :1], scored[1::2] = True, True  # a quarter and all, in turn
    kl = np.where(scored, np.where(scored.all(axis=1, keepdims=True), 2.0, 5.0), 100.0)
    found = curve(kl, scored, shape)
    assert (found.axis, found.at, found.kl) == ("share masked", (0.25, 1.0), (5, 2))
