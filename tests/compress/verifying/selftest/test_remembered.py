"""A model's answers from memory."""

from __future__ import annotations

import numpy as np

from compress.verifying.selftest.remembered import Remembered


class Counting:
    """Counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, inputs, features=None):
        self.asked += 1
        return inputs + (0 if features is None else features)

    def draw_tokens(self, labels, seed=0):
        self.asked += 1
        return labels + seed


def test_equal_questions_are_asked_once() -> None:
    model = Counting()
    kept = Remembered(model)
    for _ in range(2):
        assert kept.score(np.array([1, 2])).tolist() == [1, 2]
        assert kept.score(np.array([1, 2]), np.array([1, 1])).tolist() == [2, 3]
        assert kept.score(np.array([[1, 2]])).tolist() == [[1, 2]]
        assert kept.draw_tokens(np.array([1]), seed=3).tolist() == [4]
        assert kept.draw_tokens(np.array([1]), seed=4).tolist() == [5]
    assert model.asked == 5


def test_an_answer_that_is_changed_is_not_what_is_kept() -> None:
    kept = Remembered(Counting())
    kept.score(np.array([1, 2]))[:] = 0
    assert kept.score(np.array([1, 2])).tolist() == [1, 2]


def test_all_else_is_the_models_own() -> None:
    kept = Remembered(Counting())
    assert kept.name == "counting"
    assert not hasattr(kept, "transformer")
