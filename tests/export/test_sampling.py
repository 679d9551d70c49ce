"""Every step of sampling on logits small enough to work by hand, and the noise against its distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from export.sampling import Sampler, choose, draw, keep_likeliest, keep_nucleus

NOTHING = -np.inf


def streams(count: int, seed: int = 0) -> list[np.random.Generator]:
    """Noise for some rows."""
    return [np.random.default_rng([seed, index]) for index in range(count)]


def drawn(step, labels, sampler: Sampler = Sampler(), seed: int = 0, length: int = 3) -> np.ndarray:  # noqa: B008
    """Tokens of a model of 4 tokens and 2 classes."""
    return draw(step, np.array(labels), vocabulary=4, classes=2, length=length, sampler=sampler, seed=seed)


def flat(tokens: np.ndarray) -> np.ndarray:
    """A model without opinions."""
    return np.zeros((len(tokens), 4), dtype=np.float32)


class Recorder:
    """A model that notes what it is fed and gives the same logits for each row at every step."""

    def __init__(self, logits: list[list[float]]) -> None:
        self.logits, self.fed = np.array(logits, dtype=np.float32), []

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        self.fed.append(tokens.tolist())
        return self.logits


def test_a_sampler_keeps_what_is_not_changed() -> None:
    sampler = Sampler(cfg_scale=2.0, temperature=0.5, top_k=3, top_p=0.9)
    assert sampler.changed() == sampler
    assert sampler.changed(cfg_scale=1.0) == Sampler(1.0, 0.5, 3, 0.9)
    assert sampler.changed(temperature=0.0, top_k=0) == Sampler(2.0, 0.0, 0, 0.9)
    assert sampler.changed(top_p=1.0) == Sampler(2.0, 0.5, 3, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"cfg_scale": -1.0}, {"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_a_sampler_out_of_range_is_refused_with_its_values(wrong) -> None:
    values = {"cfg_scale": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, **wrong}
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    with pytest.raises(ValueError, match="cfg_scale") as error:
        Sampler(**wrong)
    assert str(error.value) == f"{listed}: need numbers of at least 0, and top_p above 0 and at most 1"
    with pytest.raises(ValueError, match="top_p above 0"):
        Sampler().changed(**wrong)


def test_only_a_scale_of_one_is_no_guidance() -> None:
    assert not Sampler(cfg_scale=1.0).guided
    assert Sampler(cfg_scale=0.0).guided
    assert Sampler(cfg_scale=1.5).guided


def test_a_picture_begins_with_its_class_and_goes_on_with_its_own_tokens() -> None:
    model = Recorder([[0, 9, 0, 0], [0, 0, 0, 9]])
    assert drawn(model, [1, 0], Sampler(temperature=0)).tolist() == [[1, 1, 1], [3, 3, 3]]
    assert model.fed == [[[5], [4]], [[1], [3]], [[1], [3]]]  # class c is token 4 + c


def test_guidance_feeds_the_null_class_below_and_extrapolates_from_it() -> None:
    # null + 2 * (guided - null) = [2, 1, 0, 0]: token 0 wins, though guided alone and null alone take token 1.
    model = Recorder([[2, 2.5, 0, 0], [2, 4, 0, 0]])
    assert drawn(model, [1], Sampler(cfg_scale=2.0, temperature=0), length=2).tolist() == [[0, 0]]
    assert model.fed == [[[5], [6]], [[0], [0]]]  # class 1, the null class; then the token for both


def test_guidance_of_zero_is_the_null_class_alone() -> None:
    model = Recorder([[9, 0, 0, 0], [0, 0, 9, 0]])
    assert drawn(model, [1], Sampler(cfg_scale=0.0, temperature=0), length=1).tolist() == [[2]]


def test_temperature_zero_takes_the_first_of_the_likeliest_whatever_the_seed() -> None:
    logits = np.array([[1, 3, 3, 0]], dtype=np.float32)
    assert [choose(logits, Sampler(temperature=0, top_p=0.1), streams(1, seed)).item() for seed in range(5)] == [1] * 5


def test_top_k_keeps_ties_with_the_last_it_keeps() -> None:
    logits = np.array([[3.0, 1.0, 2.0, 2.0], [0.0, 5.0, 4.0, 3.0]])
    expected = [[3.0, NOTHING, 2.0, 2.0], [NOTHING, 5.0, 4.0, NOTHING]]
    assert keep_likeliest(logits, 2).tolist() == expected


def test_top_k_of_at_least_the_vocabulary_changes_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    plain = choose(logits, Sampler(), streams(5))
    assert (choose(logits, Sampler(top_k=4), streams(5)) == plain).all()
    assert (choose(logits, Sampler(top_k=9), streams(5)) == plain).all()


def test_top_k_of_one_takes_the_likeliest() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert (choose(logits, Sampler(top_k=1), streams(50)) == logits.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("share", "kept"),
    [(0.4, [1]), (0.5, [1]), (0.55, [1, 3]), (0.8, [1, 3]), (0.85, [0, 1, 3]), (0.99, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_smallest_set_that_holds_the_share(share, kept) -> None:
    # Exact binary numbers would make the edges exact; these shares lie off the edges or just inside of them.
    logits = np.log(np.array([[0.15, 0.500001, 0.05, 0.299999 + 1e-6]]))
    result = keep_nucleus(logits, share)
    assert np.flatnonzero(np.isfinite(result[0])).tolist() == kept
    assert (result[0, kept] == logits[0, kept]).all()


def test_top_p_always_keeps_the_likeliest_and_treats_rows_apart() -> None:
    result = keep_nucleus(np.array([[0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]), 1e-9)
    assert result.tolist() == [[NOTHING, 9.0, NOTHING], [0.0, NOTHING, NOTHING]]


def test_top_p_holds_the_share_after_temperature() -> None:
    # At temperature 0.5 the shares 0.6 and 0.4 become 0.36 / 0.52 = 0.69 and 0.31, so 0.65 keeps the first alone.
    logits = np.log(np.array([[0.6, 0.4]], dtype=np.float32))
    cold = [choose(logits, Sampler(temperature=0.5, top_p=0.65), streams(1, seed)).item() for seed in range(40)]
    warm = [choose(logits, Sampler(top_p=0.65), streams(1, seed)).item() for seed in range(40)]
    assert set(cold) == {0}
    assert set(warm) == {0, 1}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature) -> None:
    logits, count = np.array([0.0, 1.0, -1.0, 2.0], dtype=np.float32), 4000
    step = lambda tokens: np.tile(logits, (len(tokens), 1))  # noqa: E731
    tokens = drawn(step, [0] * (count // 4), Sampler(temperature=temperature), seed=5, length=4)
    weights = np.exp(logits.astype(np.float64) / temperature)
    found = np.bincount(tokens.ravel(), minlength=4)
    # The seed is fixed, so this either always holds or never; 0.01 is what one seed in a hundred would miss.
    assert stats.chisquare(found, count * weights / weights.sum()).pvalue > 0.01


def test_the_noise_of_a_picture_does_not_depend_on_the_others() -> None:
    many = drawn(flat, [0, 1, 0, 1, 0], seed=3, length=20)
    assert (drawn(flat, [0, 1], seed=3, length=20) == many[:2]).all()
    assert len({tuple(row) for row in many.tolist()}) == 5


def test_guidance_does_not_change_the_noise() -> None:
    assert (drawn(flat, [0, 1], Sampler(cfg_scale=3.0), length=20) == drawn(flat, [0, 1], length=20)).all()


def test_equal_seeds_give_equal_tokens_and_others_do_not() -> None:
    first, again, other = (drawn(flat, [0, 1], seed=seed, length=20) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_uniform_draw_of_zero_is_no_token_rather_than_not_a_number() -> None:
    class Zero:
        def random(self, size: int) -> np.ndarray:
            return np.array([0.0, 0.5, 0.0, 0.5])[:size]

    assert choose(np.zeros((1, 4), dtype=np.float32), Sampler(), [Zero()]).tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 3], "label 3 is not a class; the model draws 0 to 1 (2 is no class)"),
        ([-1], "label -1 is not a class; the model draws 0 to 1 (2 is no class)"),
        (np.zeros(0, dtype=np.int64), "labels of shape (0,): need one class for each picture, at least one"),
        ([[0]], "labels of shape (1, 1): need one class for each picture, at least one"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, text) -> None:
    with pytest.raises(ValueError, match="label") as error:
        drawn(flat, labels)
    assert str(error.value) == text


def test_the_null_class_can_be_drawn() -> None:
    assert drawn(flat, [2]).shape == (1, 3)
