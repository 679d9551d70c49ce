"""What a transformer is asked: the same for equal calls, masks that cover the schedule, and inputs of every order."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.tokens import TokenSet
from compress.models.transformer.examples import examples, examples_of
from export.runtime.orders.masked import masks
from export.runtime.shape import Shape, TextShape

TOKENS = TokenSet(np.array([[1, 2, 3, 0], [4, 5, 6, 7]]), np.array([1, 0]), np.array([0, 0]))


def test_a_causal_model_reads_the_class_and_all_tokens_but_the_last() -> None:
    found = examples(Shape("causal", 10, 3, (2, 2), lead=1), TOKENS)
    assert found.inputs.tolist() == [[11, 1, 2, 3], [10, 4, 5, 6]]
    assert found.targets.tolist() == TOKENS.tokens.tolist()
    assert found.scored.all()


def test_a_next_scale_model_reads_the_class_and_all_tokens() -> None:
    found = examples(Shape("next-scale", 10, 3, (1, 1), scales=(1, 1, 1, 1), latent_width=2), TOKENS)
    assert found.inputs.tolist() == [[11, 1, 2, 3, 0], [10, 4, 5, 6, 7]]
    assert found.scored.all()


def test_a_masked_model_reads_mask_tokens_where_it_is_asked_and_true_ones_elsewhere() -> None:
    found = examples(Shape("masked", 10, 3, (2, 2)), TOKENS)
    assert found.inputs[:, 0].tolist() == [12, 11]  # the mask token is 10, the classes follow
    shown = found.inputs[:, 1:]
    assert (shown[found.scored] == 10).all()
    assert (shown[~found.scored] == TOKENS.tokens[~found.scored]).all()
    assert found.targets.tolist() == TOKENS.tokens.tolist()


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_masked_shares_cover_the_cosine_schedule_evenly(seed) -> None:
    hidden = masks(1000, 256, seed).sum(axis=1)
    assert hidden.min() >= 1
    assert hidden.max() == 256
    # The mean of cos(x pi / 2) over 0..1 is 2 / pi, and rounding up adds half a token.
    assert hidden.mean() == pytest.approx(256 * 2 / np.pi + 0.5, abs=0.5)
    for share in (0.25, 0.5, 0.75):
        assert np.quantile(hidden, share) == pytest.approx(256 * np.cos((1 - share) * np.pi / 2), abs=2)


def test_a_few_masks_cover_the_schedule_already() -> None:
    hidden = np.sort(masks(8, 64, 0).sum(axis=1))
    assert np.diff(hidden).max() <= 24
    assert hidden[0] < 24
    assert hidden[-1] > 56


@pytest.mark.parametrize("length", [1, 2, 16])
def test_at_least_one_position_of_each_picture_is_masked(length) -> None:
    assert masks(200, length, 3).any(axis=1).all()


def test_every_position_is_masked_as_often_as_the_others() -> None:
    often = masks(4000, 16, 0).mean(axis=0)
    assert np.abs(often - often.mean()).max() < 0.04


def test_equal_calls_ask_equal_questions_and_other_seeds_others() -> None:
    assert (masks(20, 16, 5) == masks(20, 16, 5)).all()
    assert (masks(20, 16, 5)[:7] == masks(7, 16, 5)).all(), "a picture's mask does not depend on how many there are"
    assert (masks(20, 16, 5) != masks(20, 16, 6)).any()


def test_chunks_and_rows_keep_what_belongs_together() -> None:
    features = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    shape = Shape("causal", 10, 1, (2, 2), text=TextShape(2, 3))
    found = examples_of(shape, TOKENS.tokens, np.zeros(2, dtype=np.int64), 0, features)
    first, second = found.chunks(1)
    assert (len(found), len(first), len(second)) == (2, 1, 1)
    for index, part in enumerate((first, second)):
        assert (part.inputs == found.inputs[[index]]).all()
        assert (part.features == features[[index]]).all()
    inputs, given = found.tensors()
    assert inputs.tolist() == found.inputs.tolist()
    assert given.tolist() == features.tolist()
    assert examples(Shape("causal", 10, 3, (2, 2)), TOKENS).tensors()[1] is None
