"""Augmentation: pictures move, levels stay levels, labels of nothing change."""

from __future__ import annotations

import numpy as np

from calibration.augment import Augment, augmented


def generator() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(0))


def test_no_change_leaves_every_picture_alone() -> None:
    tokens = generator().integers(0, 17, size=(4, 64))
    assert np.array_equal(augmented(tokens, (8, 8), 17, Augment(), generator()), tokens)


def test_untouched_one_leaves_every_picture_alone() -> None:
    tokens = generator().integers(0, 17, size=(4, 64))
    assert np.array_equal(augmented(tokens, (8, 8), 17, Augment(shift=2, untouched=1.0), generator()), tokens)


def test_moved_pictures_keep_their_mass_and_their_levels() -> None:
    tokens = np.zeros((50, 8, 8), dtype=np.int64)
    tokens[:, 3:5, 3:5] = 16
    moved = augmented(tokens.reshape(50, 64), (8, 8), 17, Augment(shift=1.0), generator())
    assert moved.min() >= 0
    assert moved.max() <= 16
    np.testing.assert_allclose(moved.sum(1), 64, rtol=0.35)
    assert len({tuple(row) for row in moved}) > 40, "each picture moves its own way"


def test_a_quarter_turn_turns_the_picture() -> None:
    tokens = np.zeros((1, 8, 8), dtype=np.int64)
    tokens[0, 0, :] = 10

    class Quarter:
        """A generator that always draws the end of the range: no picture is left alone, every turn is the largest."""

        def uniform(self, low: float, high: float, size: int) -> np.ndarray:
            return np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    moved = augmented(tokens.reshape(1, 64), (8, 8), 17, Augment(turn=90), Quarter())  # type: ignore[arg-type]
    turned = moved.reshape(8, 8)
    assert (turned[:, 0] > 8).sum() + (turned[:, 7] > 8).sum() >= 6
