"""Drawing pictures token by token, mask by mask or scale by scale, whatever runs the model.

Letters: B pictures, R rows of a step (B, or 2B under guidance), T tokens of a picture, O logits of a position, P x C
features of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .choosing import Choice, Chosen, choose
from .errors import shown
from .noise import Noise, NoiseOfEach, NoiseSource
from .sampling import Sampler
from .shape import Shape


class Runner(Protocol):
    """A model that is about to draw rows of pictures."""

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Forget everything and take the classes (R,), features (R, P, C) and, causal, the first tokens (R, S).

        Returns logits of the first token behind them (R, 1, O), unless the model is masked.
        """

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of what comes next.

        Causal: (R, 1, O) after the tokens (R, 1) behind those before. Masked: (R, n, O) of the positions (n,), or of
        all, of tokens (R, T). Next-scale: (R, side^2, O) of the next scale, from tokens (R, T) that are known up to it.
        Positions are of masked models alone.
        """


class Drawer(Protocol):
    """A runner that chooses tokens too, so that logits need not leave it."""

    def noise(self, made: Noise | NoiseOfEach) -> NoiseSource:
        """The noise of a drawing, where this chooses."""

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """The first tokens, chosen behind what `Runner.begin` takes; none where there is no choice yet."""

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """What is chosen next, behind what `Runner.step` takes; of a masked model at these positions (n,)."""


class Observed:
    """A drawer that tells whenever tokens were chosen."""

    def __init__(self, drawer: Drawer, on_step: Callable[[], None]) -> None:
        self.drawer, self.on_step = drawer, on_step

    def noise(self, made: Noise | NoiseOfEach) -> NoiseSource:
        """As of the drawer."""
        return self.drawer.noise(made)

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """As of the drawer."""
        if (chosen := self.drawer.begin(labels, features, prompt, choice)) is not None:
            self.on_step()
        return chosen

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """As of the drawer."""
        chosen = self.drawer.step(tokens, choice, positions)
        self.on_step()
        return chosen


class LogitsDrawer:
    """A drawer that chooses from the logits that a runner gives out."""

    def __init__(self, runner: Runner, shape: Shape) -> None:
        self.runner, self.with_sureness = runner, shape.drawing.masks

    def noise(self, made: Noise | NoiseOfEach) -> NoiseSource:
        """The same."""
        return made

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """The first tokens, where the model is not masked."""
        logits = self.first(labels, features, prompt)
        return None if logits is None or choice is None else self.chosen(logits, choice)

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """What is chosen next; of a masked model at these positions (n,)."""
        return self.chosen(self.following(tokens, positions), choice)

    def first(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None, prompt: NDArray[np.int64] | None
    ) -> Any:
        """Logits (R, 1, O) of the first tokens; none of a masked model."""
        return self.runner.begin(labels, features, prompt)

    def following(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None) -> Any:
        """Logits (R, n, O) of what comes next."""
        return self.runner.step(tokens, positions)

    def chosen(self, logits: Any, choice: Choice) -> Chosen:
        """What is chosen from logits (R, n, O)."""
        return choose(logits, choice, with_sureness=self.with_sureness)


@dataclass(frozen=True)
class Known:
    """Tokens (B, T) that are given, and where (T,): those of the picture that is completed or inpainted."""

    tokens: NDArray[np.int64]
    where: NDArray[np.bool_]


@dataclass(frozen=True)
class Task:
    """What is to be drawn."""

    shape: Shape
    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None
    sampler: Sampler
    noise: NoiseSource
    known: Known | None

    @property
    def count(self) -> int:
        """Pictures."""
        return len(self.labels)

    def begin(self, drawer: Drawer, choice: Choice | None, prompt: NDArray[np.int64] | None = None) -> Chosen | None:
        """Let a drawer begin with this task; guidance draws every picture again without class, below the others."""
        labels, features = self.labels, self.features
        if self.sampler.guided:
            labels = np.concatenate([labels, np.full_like(labels, self.shape.null_class)])
            features = None if features is None else np.concatenate([features, features])
        return drawer.begin(labels, features, None if prompt is None else self.rows(prompt), choice)

    def choice(self, step: int, steps: int, positions: int) -> Choice:
        """How the tokens of so many positions are chosen at a step of so many."""
        return Choice.at(self.sampler, self.noise, step, steps, (positions, self.shape.predicted))

    def rows(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens (B, ...) for every row of a step."""
        return np.concatenate([tokens, tokens]) if self.sampler.guided else tokens

    def kept(self, tokens: NDArray[np.int64], start: int) -> NDArray[np.int64]:
        """Drawn tokens (B, n) of positions from `start`, with the known ones in their places."""
        if self.known is None:
            return tokens
        part = slice(start, start + tokens.shape[1])
        return np.where(self.known.where[part], self.known.tokens[:, part], tokens)


def conditions(shape: Shape, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Classes (count,), each in turn, and features of no particular texts where the model draws texts."""
    if shape.text is None:
        return np.arange(count, dtype=np.int64) % max(shape.classes, 1), None
    noise = np.random.Generator(np.random.Philox(key=0)).standard_normal((count, shape.text.length, shape.text.width))
    return np.zeros(count, dtype=np.int64), noise.astype(np.float32)


def classes_of(labels: Sequence[int | str] | NDArray[Any], shape: Shape) -> NDArray[np.int64]:
    """Classes (N,) from what a caller gives: their numbers, or their names where they have some.

    Raises:
        ValueError: they are neither, or one is not a class.
    """
    if not isinstance(labels, np.ndarray):
        labels = [shape.class_called(each) if isinstance(each, str) else each for each in labels]
    found = np.asarray(labels)
    if found.dtype.kind not in "iu":  # also what no array of integers could hold
        for each in found.ravel().tolist():
            if type(each) is not int:
                raise ValueError(f"label {shown(each)} is not a class; labels are whole numbers")
    wrong = found[(found < 0) | (found > shape.classes)] if found.size else found
    if len(wrong):
        raise ValueError(f"label {shown(wrong.tolist()[0])} is not a class; the model draws {said_of_classes(shape)}")
    return found.astype(np.int64)


def said_of_classes(shape: Shape) -> str:
    """The classes that there are."""
    if not shape.classes:
        return "without classes, so every label is 0"
    return f"0 to {shape.classes - 1} ({shape.classes} is unconditional)"


def draw(
    drawer: Drawer,
    labels: NDArray[np.int64],
    shape: Shape,
    sampler: Sampler,
    seed: int,
    features: NDArray[np.float32] | None = None,
    known: Known | None = None,
    first: int = 0,
    on_step: Callable[[], None] | None = None,
    noise: NoiseOfEach | None = None,
) -> NDArray[np.int64]:
    """Tokens (B, T) of new pictures of these classes (B,), or of texts with these features (B, P, C).

    `first` is the number of the first picture among all that are drawn with this seed: its noise depends on it. `noise`
    stands in place of both where pictures of several seeds are drawn.
    `on_step` is called whenever tokens were chosen.

    Raises:
        ValueError: a label that is no class (the null class is allowed), labels that are not (B,) with B > 0, features
        or known tokens of another shape.
    """
    check_request(labels, shape, features, known)
    features = None if features is None else features.astype(np.float32, copy=False)
    made = drawer.noise(noise or Noise(seed, len(labels), first))
    task = Task(shape, labels.astype(np.int64), features, sampler, made, known)
    return shape.drawing.draw(drawer if on_step is None else Observed(drawer, on_step), task)


def check_request(
    labels: NDArray[np.int64], shape: Shape, features: NDArray[np.float32] | None, known: Known | None
) -> None:
    """Refuse what cannot be drawn."""
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels of shape {labels.shape}: need one class for each picture, at least one")
    classes_of(labels, shape)
    wanted = None if shape.text is None else (len(labels), shape.text.length, shape.text.width)
    found = None if features is None else features.shape
    if found != wanted:
        raise ValueError(f"features of a text {found}: this model takes {wanted or 'none'}")
    if features is not None and not (features.dtype.kind == "f" and np.isfinite(features).all()):
        raise ValueError("features of a text: each must be a finite number")
    if known is not None and (
        known.tokens.shape != (len(labels), shape.length) or known.where.shape != (shape.length,)
    ):
        raise ValueError(
            f"known tokens {known.tokens.shape} at {known.where.shape}: need {(len(labels), shape.length)}"
        )


def opening(shape: Shape, labels: NDArray[np.int64], prompt: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """What a causal model reads first (R, S): start token, class, and the tokens of a prompt (R, S).

    A text stands before them where one is the condition: any tokens then, in whose places its rows are read.
    """
    if shape.text:
        before = [np.zeros((len(labels), shape.text.length), dtype=np.int64)]
    else:
        before = [np.full((len(labels), shape.lead), shape.start_token), labels[:, None] + shape.first_class]
    return np.concatenate([*before, *([] if prompt is None else [prompt])], axis=1)


def score_stepwise(
    runner: Runner, inputs: NDArray[np.int64], shape: Shape, features: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Teacher-forced logits (B, T, O) of inputs (B, 1 + ...), step by step as when drawing."""
    first = runner.begin(inputs[:, 0] - shape.first_class, features)
    return shape.drawing.score_stepwise(runner, first, inputs[:, 1:], shape)
