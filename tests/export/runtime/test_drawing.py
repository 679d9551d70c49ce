"""Every order of drawing on runners that are worked by hand: what they are fed, what stays, what each step reveals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from export.runtime.choosing import log_probability
from export.runtime.drawing import Known, LogitsDrawer, classes_of, draw, score_stepwise
from export.runtime.heeded import sampler_of
from export.runtime.sampling import Sampler, halton_order
from export.runtime.shape import Shape, TextShape

MASKED = Shape("masked", 7, 2, (4, 4), outputs=8, modulated=True)
SCALES = Shape("next-scale", 7, 2, (3, 3), modulated=True, scales=(1, 2, 3), latent_width=4)
CAUSAL = Shape("causal", 7, 2, (2, 4))
LABELS = np.array([1, 0, 2])


class Noted:
    """A runner that notes what it is fed; its logits are random numbers that depend on the row and its tokens."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.fed: list[NDArray[np.int64]] = []
        self.start = 0

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        self.labels, self.features, self.prompt, self.start = labels, features, prompt, 0
        return None if self.shape.order == "masked" else self.logits(np.zeros((len(labels), 1), dtype=np.int64))

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        self.fed.append(tokens.copy())
        logits = self.logits(tokens)
        return logits if positions is None else logits[:, positions]

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        count = tokens.shape[1]
        if self.shape.order == "next-scale":
            count = self.shape.side_at(self.start) ** 2
            tokens = tokens[:, : self.start]
            self.start += count
        rows = [np.random.default_rng([label, *row]) for label, row in zip(self.labels, tokens, strict=True)]
        return np.stack([3 * row.normal(size=(count, self.shape.predicted)) for row in rows]).astype(np.float32)


def drawn_by(runner: Noted, labels: NDArray[np.int64], shape: Shape, *given, **more) -> NDArray[np.int64]:
    """Tokens that are chosen from a runner's logits."""
    return draw(LogitsDrawer(runner, shape), labels, shape, *given, **more)


def reveals(runner: Noted, shape: Shape) -> list[int]:
    """How many tokens of the first picture were known at each step."""
    return [int((tokens[0] != shape.mask_token).sum()) for tokens in runner.fed]


@pytest.mark.parametrize("reveal", ["halton", "confidence", "logit", "random"])
@pytest.mark.parametrize("schedule", ["cosine", "arccos", "linear", "square"])
@pytest.mark.parametrize("steps", [1, 3, 16, 40])
def test_no_mask_token_is_left(reveal, schedule, steps) -> None:
    runner = Noted(MASKED)
    sampler = Sampler(cfg_scale=2.0, steps=steps, schedule=schedule, reveal=reveal)
    tokens = drawn_by(runner, LABELS, MASKED, sampler, 0)
    assert tokens.shape == (3, 16)
    assert tokens.min() >= 0
    assert tokens.max() < 7
    known = reveals(runner, MASKED)
    assert known[0] == 0
    assert len(known) == min(steps, 16)
    if reveal != "halton":  # in a fixed order the mask token itself can be drawn, and becomes another one at the end
        assert known == sorted(set(known)), "every step reveals something"


def test_the_surest_are_kept_as_many_as_the_schedule_leaves_unmasked() -> None:
    runner = Noted(MASKED)
    drawn_by(runner, LABELS, MASKED, Sampler(steps=4, schedule="linear", choice_temperature=0), 0)
    assert reveals(runner, MASKED) == [0, 4, 8, 12]
    runner = Noted(MASKED)
    drawn_by(runner, LABELS, MASKED, Sampler(steps=4, schedule="cosine"), 0)
    # 16 cos(pi/8) = 14.8, 16 cos(pi/4) = 11.3, 16 cos(3 pi/8) = 6.1 stay masked
    assert reveals(runner, MASKED) == [0, 2, 5, 10]


def test_positions_are_revealed_in_the_halton_order_as_many_as_the_schedule_says() -> None:
    shape = replace(MASKED, outputs=7)  # the mask token itself cannot be drawn
    runner = Noted(shape)
    drawn_by(runner, LABELS, shape, Sampler(steps=4, schedule="linear", reveal="halton"), 0)
    order = halton_order((4, 4))
    for tokens, count in zip(runner.fed, (0, 4, 8, 12), strict=True):
        assert (np.flatnonzero(tokens[0] != 7) == np.sort(order[:count])).all()


def test_the_surest_tokens_of_a_step_are_those_that_stay() -> None:
    shape = Shape("masked", 3, 1, (1, 3), modulated=True)

    class Sure(Noted):
        def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            return np.array([[[2, 0, 0], [0, 5, 0], [0, 0, 3]]] * len(tokens), dtype=np.float32)

    runner = Sure(shape)
    sampler = Sampler(steps=3, schedule="linear", temperature=0.0, choice_temperature=0.0)
    assert drawn_by(runner, np.array([0]), shape, sampler, 0).tolist() == [[0, 1, 2]]
    assert [tokens.tolist() for tokens in runner.fed] == [[[3, 3, 3]], [[3, 1, 3]], [[3, 1, 2]]]


@pytest.mark.parametrize("reveal", ["halton", "confidence", "logit", "random"])
def test_what_is_once_revealed_stays(reveal) -> None:
    runner = Noted(MASKED)
    tokens = drawn_by(runner, LABELS, MASKED, Sampler(steps=6, reveal=reveal), 3)
    for fed in runner.fed:
        assert (fed[fed != 7] == tokens[fed != 7]).all()


def test_a_step_shows_the_same_tokens_with_the_class_and_without() -> None:
    for shape in (MASKED, SCALES, CAUSAL):
        runner = Noted(shape)
        drawn_by(runner, LABELS, shape, Sampler(cfg_scale=3.0), 0)
        assert runner.labels.tolist() == [1, 0, 2, 2, 2, 2]
        assert all((tokens[:3] == tokens[3:]).all() for tokens in runner.fed)


@pytest.mark.parametrize("shape", [MASKED, SCALES, CAUSAL], ids=lambda shape: shape.order)
@pytest.mark.parametrize("reveal", ["halton", "confidence"])
def test_equal_seeds_give_equal_tokens_whatever_the_batch(shape, reveal) -> None:
    sampler = Sampler(cfg_scale=2.0, temperature=2.0, steps=5, reveal=reveal)
    first, again, other = (drawn_by(Noted(shape), LABELS, shape, sampler, seed) for seed in (4, 4, 5))
    assert (first == again).all()
    assert (first != other).any()
    assert (drawn_by(Noted(shape), LABELS[:1], shape, sampler, 4) == first[:1]).all()


@pytest.mark.parametrize("reveal", ["halton", "confidence"])
@pytest.mark.parametrize("shape", [MASKED, SCALES, CAUSAL], ids=lambda shape: shape.order)
def test_known_tokens_stay(shape, reveal) -> None:
    generator = np.random.default_rng(0)
    known = Known(generator.integers(0, 7, (3, shape.length)), generator.random(shape.length) < 0.5)
    runner = Noted(shape)
    tokens = drawn_by(runner, LABELS, shape, Sampler(steps=4, reveal=reveal), 0, known=known)
    assert (tokens[:, known.where] == known.tokens[:, known.where]).all()
    assert (tokens[:, ~known.where] != known.tokens[:, ~known.where]).any()
    if shape.order == "masked":
        assert all((fed[:, known.where] == known.tokens[:, known.where]).all() for fed in runner.fed)


def test_a_picture_that_is_wholly_known_is_handed_back() -> None:
    for shape in (MASKED, SCALES, CAUSAL):
        whole = Known(np.arange(3 * shape.length).reshape(3, -1) % 7, np.ones(shape.length, dtype=bool))
        assert (drawn_by(Noted(shape), LABELS, shape, Sampler(), 0, known=whole) == whole.tokens).all()


def test_a_scale_is_drawn_from_the_tokens_of_the_coarser_ones_at_the_guidance_of_its_number() -> None:
    runner = Noted(SCALES)
    tokens = drawn_by(runner, LABELS, SCALES, Sampler(temperature=0.0), 0)
    assert tokens.shape == (3, 14)
    assert len(runner.fed) == 2
    for fed, start in zip(runner.fed, (1, 5), strict=True):
        assert (fed[:, :start] == tokens[:, :start]).all()
    scales: list[int] = []

    class Watched(Sampler):
        def scale_at(self, step: int, steps: int) -> float:
            scales.append((step, steps))
            return super().scale_at(step, steps)

    drawn_by(Noted(SCALES), LABELS, SCALES, Watched(cfg_scale=2.0), 0)
    assert scales == [(0, 3), (1, 3), (2, 3)]


def test_texts_are_drawn_with_their_features_and_without_for_guidance() -> None:
    shape = Shape("causal", 7, 1, (2, 4), text=TextShape(3, 2))
    features = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    runner = Noted(shape)
    drawn_by(runner, np.zeros(2, dtype=np.int64), shape, Sampler(cfg_scale=2.0), 0, features)
    assert runner.labels.tolist() == [0, 0, 1, 1]
    assert (runner.features == np.concatenate([features, features])).all()
    for wrong in (None, features[:1], features[:, :2]):
        with pytest.raises(ValueError, match=r"features of a text .*: this model takes \(2, 3, 2\)"):
            drawn_by(runner, np.zeros(2, dtype=np.int64), shape, Sampler(), 0, wrong)
    with pytest.raises(ValueError, match="this model takes none"):
        drawn_by(Noted(CAUSAL), np.zeros(2, dtype=np.int64), CAUSAL, Sampler(), 0, features)


def test_what_cannot_be_drawn_is_refused() -> None:
    unconditional = Shape("causal", 7, 0, (2, 4))
    assert drawn_by(Noted(unconditional), np.zeros(1, dtype=np.int64), unconditional, Sampler(), 0).shape == (1, 8)
    with pytest.raises(ValueError, match="label 1 is not a class; the model draws without classes"):
        drawn_by(Noted(unconditional), np.ones(1, dtype=np.int64), unconditional, Sampler(), 0)
    for known in (
        Known(np.zeros((3, 7), dtype=np.int64), np.ones(8, dtype=bool)),
        Known(np.zeros((3, 8), dtype=np.int64), np.ones(7, dtype=bool)),
    ):
        with pytest.raises(ValueError, match=r"known tokens .*: need \(3, 8\)"):
            drawn_by(Noted(CAUSAL), LABELS, CAUSAL, Sampler(), 0, known=known)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([3], "label 3 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        ([0, -1], "label -1 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        ([10**20], "label 100000000000000000000 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        ([2**63], "label 9223372036854775808 is not a class; the model draws 0 to 1 (2 is unconditional)"),
        (
            [10**5000],
            "label a number of thousands of digits is not a class; the model draws 0 to 1 (2 is unconditional)",
        ),
        ([1.5], "label 1.5 is not a class; labels are whole numbers"),
        ([np.nan], "label nan is not a class; labels are whole numbers"),
        ([True], "label True is not a class; labels are whole numbers"),
        (["1"], "label '1' is not a class; the classes of this model have numbers, no names"),
        ([None], "label None is not a class; labels are whole numbers"),
    ],
)
def test_what_is_no_class_is_refused(labels, text) -> None:
    with pytest.raises(ValueError, match="is not a class") as error:
        classes_of(labels, CAUSAL)
    assert str(error.value) == text


def test_classes_are_whole_numbers_of_any_kind() -> None:
    for labels in ([0, 2], (0, 2), np.array([0, 2], dtype=np.uint8), np.array([0, 2], dtype=object)):
        found = classes_of(labels, CAUSAL)
        assert (found.tolist(), found.dtype) == ([0, 2], np.int64)


def test_a_random_order_is_another_one_for_each_picture_and_seed() -> None:
    orders = []
    for seed in (0, 1):
        runner = Noted(MASKED)
        sampler = Sampler(steps=16, schedule="linear", reveal="random", temperature=0.0)
        drawn_by(runner, np.array([1, 1]), MASKED, sampler, seed)
        for row in (0, 1):
            known = [set(np.flatnonzero(tokens[row] != MASKED.mask_token)) for tokens in runner.fed]
            orders.append([*(min(after - before) for before, after in pairwise(known))])
    assert all(len(set(order)) == 15 for order in orders), "one more at each step"
    assert len({tuple(order) for order in orders}) == 4
    assert len({order[0] for order in orders}) > 1


@pytest.mark.parametrize(("shape", "way"), [(CAUSAL, "token by token"), (SCALES, "scale by scale")])
def test_steps_of_what_is_not_drawn_in_steps_are_refused(shape, way) -> None:
    with pytest.raises(ValueError, match=f"steps 5: this model draws {way}; leave it out"):
        sampler_of(shape, Sampler(), steps=5)
    assert sampler_of(shape, Sampler(), steps=None, top_k=3) == Sampler(top_k=3)
    assert sampler_of(MASKED, Sampler(), steps=5) == Sampler(steps=5)


def test_features_that_are_no_numbers_are_refused() -> None:
    shape = Shape("causal", 7, 1, (2, 4), text=TextShape(3, 2))
    for wrong in (np.full((1, 3, 2), np.nan), np.full((1, 3, 2), np.inf), np.zeros((1, 3, 2), dtype=np.int64)):
        with pytest.raises(ValueError, match="features of a text: each must be a finite number"):
            drawn_by(Noted(shape), np.zeros(1, dtype=np.int64), shape, Sampler(), 0, wrong)


def test_log_probabilities_are_the_logarithm_of_softmax() -> None:
    logits = np.log(np.array([[[0.7, 0.2, 0.1]], [[0.25, 0.5, 0.25]]])) + 800
    np.testing.assert_allclose(log_probability(logits, np.array([[1], [0]])), np.log([[0.2], [0.25]]))


def test_known_tokens_at_the_beginning_of_a_causal_model_are_read_at_once() -> None:
    known = Known(np.arange(24).reshape(3, 8) % 7, np.arange(8) < 3)
    runner = Noted(CAUSAL)
    tokens = drawn_by(runner, LABELS, CAUSAL, Sampler(cfg_scale=2.0), 0, known=known)
    assert (runner.prompt == np.concatenate([known.tokens[:, :3]] * 2)).all()
    assert len(runner.fed) == 4
    assert (tokens[:, :3] == known.tokens[:, :3]).all()


def test_the_noise_of_a_picture_is_that_of_its_number() -> None:
    all_, sampler = np.zeros(3, dtype=np.int64), Sampler(temperature=3.0)
    whole = drawn_by(Noted(CAUSAL), all_, CAUSAL, sampler, 4)
    parts = [drawn_by(Noted(CAUSAL), all_[:1], CAUSAL, sampler, 4, first=number) for number in range(3)]
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize("shape", [MASKED, SCALES, CAUSAL], ids=lambda shape: shape.order)
def test_scoring_step_by_step_shows_the_true_tokens(shape: Shape) -> None:
    tokens = np.random.default_rng(0).integers(0, 7, (3, shape.length))
    shown = tokens[:, :-1] if shape.order == "causal" else tokens
    inputs = np.concatenate([LABELS[:, None] + shape.first_class, shown], axis=1)
    runner = Noted(shape)
    logits = score_stepwise(runner, inputs, shape)
    assert logits.shape == (3, shape.length, shape.predicted)
    assert runner.labels.tolist() == LABELS.tolist()
    starts: dict[str, Callable[[int], slice]] = {
        "masked": lambda step: slice(0, 16),
        "next-scale": lambda step: slice(0, (1, 5)[step]),
        "causal": lambda step: slice(step, step + 1),
    }
    for step, fed in enumerate(runner.fed):
        part = starts[shape.order](step)
        assert (fed[:, : part.stop - part.start] == tokens[:, part]).all()


@pytest.mark.parametrize(("shape", "times"), [(CAUSAL, 8), (SCALES, 3), (MASKED, 5)])
def test_whoever_asks_is_told_of_every_step(shape: Shape, times: int) -> None:
    calls: list[None] = []
    sampler = Sampler(steps=5) if shape is MASKED else Sampler()
    arguments = (LogitsDrawer(Noted(shape), shape), LABELS, shape, sampler, 0)
    drawn = draw(*arguments, on_step=lambda: calls.append(None))
    assert len(calls) == times
    np.testing.assert_array_equal(drawn, draw(LogitsDrawer(Noted(shape), shape), *arguments[1:]))
