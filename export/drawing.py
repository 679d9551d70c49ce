"""Drawing pictures token by token, mask by mask or scale by scale, whatever runs the model.

Letters: B pictures, R rows of a step (B, or 2B under guidance), T tokens of a picture, O logits of a position, P x C
features of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.sampling import Sampler, Streams, choose, guide, gumbel, halton_order, masked_share, streams, tempered
from export.shape import Order, Shape


class Runner(Protocol):
    """A model that is about to draw rows of pictures."""

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Forget everything and take the classes (R,) and features (R, P, C).

        Returns logits of the first token (R, 1, O), unless the model is masked.
        """

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of what comes next.

        Causal: (R, 1, O) after the tokens (R, 1) behind those before. Masked: (R, T, O) of tokens (R, T). Next-scale:
        (R, side^2, O) of the next scale, from tokens (R, T) that are known up to it.
        """


@dataclass(frozen=True)
class Known:
    """Tokens (B, T) that are given, and where (T,): those of the picture that is completed or inpainted."""

    tokens: NDArray[np.int64]
    where: NDArray[np.bool_]


@dataclass(frozen=True)
class Task:
    """What is to be drawn."""

    shape: Shape
    count: int
    sampler: Sampler
    noise: Streams
    known: Known | None

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


def draw(
    runner: Runner,
    labels: NDArray[np.int64],
    shape: Shape,
    sampler: Sampler,
    seed: int,
    features: NDArray[np.float32] | None = None,
    known: Known | None = None,
) -> NDArray[np.int64]:
    """Tokens (B, T) of new pictures of these classes (B,), or of texts with these features (B, P, C).

    Raises:
        ValueError: a label that is no class (the null class is allowed), labels that are not (B,) with B > 0, features
        or
            known tokens of another shape.
    """
    check(labels, shape, features, known)
    labels = labels.astype(np.int64)
    task = Task(shape, len(labels), sampler, streams(seed, len(labels)), known)
    rows = np.concatenate([labels, np.full_like(labels, shape.null_class)]) if sampler.guided else labels
    if features is not None and sampler.guided:
        features = np.concatenate([features, features])
    first = runner.begin(rows, features)
    return DRAW[shape.order](runner, task, first)


def check(labels: NDArray[np.int64], shape: Shape, features: NDArray[np.float32] | None, known: Known | None) -> None:
    """Refuse what cannot be drawn."""
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels of shape {labels.shape}: need one class for each picture, at least one")
    if labels.min() < 0 or labels.max() > shape.classes:
        wrong = labels[(labels < 0) | (labels > shape.classes)][0]
        raise ValueError(
            f"label {wrong} is not a class; the model draws 0 to {shape.classes - 1} ({shape.classes} is no class)"
            if shape.classes
            else f"label {wrong} is not a class; the model draws without classes, so every label is 0"
        )
    wanted = None if shape.text is None else (len(labels), shape.text.length, shape.text.width)
    found = None if features is None else features.shape
    if found != wanted:
        raise ValueError(f"features of a text {found}: this model takes {wanted or 'none'}")
    if known is not None and (
        known.tokens.shape != (len(labels), shape.length) or known.where.shape != (shape.length,)
    ):
        raise ValueError(
            f"known tokens {known.tokens.shape} at {known.where.shape}: need {(len(labels), shape.length)}"
        )


def draw_causal(runner: Runner, task: Task, first: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Token by token."""
    assert first is not None
    length, logits = task.shape.length, first
    tokens = np.empty((task.count, length), dtype=np.int64)
    for position in range(length):
        guided = guide(logits, task.sampler, position, length)
        chosen = task.kept(choose(guided, task.sampler, task.noise, position, length), position)
        tokens[:, position : position + 1] = chosen
        if position + 1 < length:
            logits = runner.step(task.rows(chosen))
    return tokens


def draw_scales(runner: Runner, task: Task, first: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Scale by scale, all tokens of one at once."""
    assert first is not None
    scales, logits, start = task.shape.scales, first, 0
    tokens = np.zeros((task.count, task.shape.length), dtype=np.int64)
    for index, side in enumerate(scales):
        if index:
            logits = runner.step(task.rows(tokens))
        guided = guide(logits, task.sampler, index, len(scales))
        chosen = choose(guided, task.sampler, task.noise, index, len(scales))
        tokens[:, start : start + side * side] = task.kept(chosen, start)
        start += side * side
    return tokens


def draw_masked(runner: Runner, task: Task, first: NDArray[np.float32] | None) -> NDArray[np.int64]:
    """Mask by mask: by a fixed order of positions, or the surest first. Known positions are never masked."""
    shape, known = task.shape, task.known
    tokens = np.full((task.count, shape.length), shape.mask_token, dtype=np.int64)
    open_ = np.arange(shape.length)
    if known is not None:
        tokens[:, known.where] = known.tokens[:, known.where]
        open_ = np.flatnonzero(~known.where)
    reveal = reveal_in_order if task.sampler.reveal == "halton" else reveal_surest
    if len(open_):
        reveal(runner, task, tokens, open_)
    return np.minimum(tokens, shape.vocabulary - 1)  # a model that can draw the mask token itself may have


def reveal_in_order(runner: Runner, task: Task, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
    """Fill the open positions (T',) of tokens (B, T) in the Halton order, as many at each step as the schedule says."""
    sampler, steps, done = task.sampler, task.sampler.steps, 0
    order = halton_order(task.shape.grid)
    order = order[np.isin(order, positions)]
    for step in range(steps):
        revealed = int((1 - masked_share(sampler.schedule, (step + 1) / steps)) * len(order))
        revealed = len(order) if step + 1 == steps else min(max(step + 1, revealed), len(order))
        now = order[done:revealed]
        if not len(now):
            continue
        logits = guide(runner.step(task.rows(tokens))[:, now], sampler, step, steps)
        tokens[:, now] = choose(logits, sampler, task.noise, step, steps)
        done = revealed


def reveal_surest(runner: Runner, task: Task, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
    """Fill the open positions (T',) of tokens (B, T): draw all, keep the surest, mask the others again."""
    sampler, steps, count = task.sampler, task.sampler.steps, len(positions)
    for step in range(steps):
        unknown = tokens[:, positions] == task.shape.mask_token  # (B, T'), as many in each row
        left = int(unknown[0].sum())
        if not left:
            return
        # A position that drew the mask token would count as open again.
        logits = runner.step(task.rows(tokens))[:, positions, : task.shape.vocabulary]
        logits = guide(logits, sampler, step, steps)
        noise = sampler.choice_at(step, steps)
        chosen = choose(logits, cooled(sampler, noise), task.noise, step, steps)
        drawn = np.where(unknown, chosen, tokens[:, positions])
        done = (step + 1) / steps
        masked = 0 if step + 1 == steps else int(masked_share(sampler.schedule, done) * count)
        masked = min(max(masked, 1), left - 1) if step + 1 < steps and left > 1 else 0
        if masked:
            sureness = sure(logits, chosen, sampler, step) + noise * gumbel(task.noise, chosen.shape[1:])
            sureness = np.where(unknown, sureness, np.inf)
            again = np.argsort(sureness, axis=1, kind="stable")[:, :masked]
            np.put_along_axis(drawn, again, task.shape.mask_token, axis=1)
        tokens[:, positions] = drawn


def cooled(sampler: Sampler, noise: float) -> Sampler:
    """How tokens are drawn while positions are chosen with so much noise."""
    return replace(sampler, temperature=noise, end_temperature=None) if sampler.reveal == "logit" else sampler


def sure(logits: NDArray[np.float32], chosen: NDArray[np.int64], sampler: Sampler, step: int) -> NDArray[np.float64]:
    """How sure the tokens chosen (B, n) from logits (B, n, O) are: their logits, or log-probabilities."""
    exact = logits.astype(np.float64)
    if sampler.reveal == "logit":
        return np.take_along_axis(exact, chosen[..., None], axis=-1)[..., 0]
    scores = tempered(logits, sampler, step, sampler.steps)
    return log_probability(exact if scores is None else scores, chosen)


def log_probability(logits: NDArray[np.float64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-probabilities (B, n) of the tokens chosen (B, n) from logits (B, n, O)."""
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return np.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0] - total


DRAW: dict[Order, Callable[[Runner, Task, NDArray[np.float32] | None], NDArray[np.int64]]] = {
    "causal": draw_causal,
    "masked": draw_masked,
    "next-scale": draw_scales,
}


def score_stepwise(
    runner: Runner, inputs: NDArray[np.int64], shape: Shape, features: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Teacher-forced logits (B, T, O) of inputs (B, 1 + ...), step by step as when drawing."""
    first = runner.begin(inputs[:, 0] - shape.first_class, features)
    shown = inputs[:, 1:]
    if shape.order == "masked":
        return runner.step(shown)
    assert first is not None
    parts, start = [first.copy()], 0
    if shape.order == "causal":
        parts += [runner.step(shown[:, [position]]).copy() for position in range(shown.shape[1])]
    for side in shape.scales[:-1]:
        start += side * side
        parts.append(runner.step(np.where(np.arange(shape.length) < start, shown, 0)).copy())
    return np.concatenate(parts, axis=1)
