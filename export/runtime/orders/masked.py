"""Mask by mask: every step reads the whole picture, and reveals some of what is still masked (MaskGIT, aMUSEd)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..choosing import Choice
from ..sampling import Sampler, halton_order, steps_in_order, steps_surest
from . import DrawingOrder

if TYPE_CHECKING:
    from ..drawing import Drawer, Runner, Task
    from ..shape import Shape

GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 fill the unit interval evenly, however many are taken


class Masked(DrawingOrder):
    """MaskGIT's order (arXiv 2202.04200), by a fixed sequence of positions or the surest first."""

    name = "masked"
    words = "in steps"
    masks = True

    def steps(self, shape: Shape, sampler: Sampler) -> int:
        """As many as the sampler says."""
        return sampler.steps

    def step_of_each(self, scored: NDArray[np.bool_], shape: Shape, sampler: Sampler) -> tuple[NDArray[np.int64], int]:
        """The step at which about as many positions are open as the picture has masked."""
        if sampler.reveal == "halton":
            made = list(steps_in_order(sampler, shape.length))
            open_ = [shape.length, *(shape.length - revealed for _, revealed in made[:-1])]
        else:
            made = list(steps_surest(sampler, shape.length))
            open_ = [shape.length, *(masked for _, masked in made[:-1])]
        distance = np.abs(scored.sum(axis=1)[:, None] - np.array(open_))  # (B, steps)
        numbers = np.array([step for step, _ in made])[distance.argmin(axis=1)]
        return np.broadcast_to(numbers[:, None], scored.shape), sampler.steps

    def drawn_first(self, shape: Shape) -> NDArray[np.int64]:
        """Positions all over the picture."""
        return halton_order(shape.grid)

    def shown(self, tokens: NDArray[np.int64], shape: Shape, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens (B, T) of which some are masked, and those are asked for; equal seeds mask the same."""
        hidden = masks(len(tokens), tokens.shape[1], seed)
        return np.where(hidden, shape.mask_token, tokens), hidden

    def draw(self, drawer: Drawer, task: Task) -> NDArray[np.int64]:
        """Mask by mask; known positions are never masked."""
        shape, known = task.shape, task.known
        tokens = np.full((task.count, shape.length), shape.mask_token, dtype=np.int64)
        open_ = np.arange(shape.length)
        if known is not None:
            tokens[:, known.where] = known.tokens[:, known.where]
            open_ = np.flatnonzero(~known.where)
        task.begin(drawer, None)
        reveal = reveal_in_order if task.sampler.reveal == "halton" else reveal_surest
        if len(open_):
            reveal(drawer, task, tokens, open_)
        return np.minimum(tokens, shape.vocabulary - 1)  # a model that can draw the mask token itself may have

    def score_stepwise(
        self, runner: Runner, first: NDArray[np.float32] | None, shown: NDArray[np.int64], shape: Shape
    ) -> NDArray[np.float32]:
        """One call for the whole picture."""
        return runner.step(shown)


ORDER = Masked()


def reveal_in_order(drawer: Drawer, task: Task, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
    """Fill the open positions (T',) of tokens (B, T) in the Halton order, as many at each step as the schedule says."""
    order, done = halton_order(task.shape.grid), 0
    order = order[np.isin(order, positions)]
    for step, revealed in steps_in_order(task.sampler, len(order)):
        now = order[done:revealed]
        choice = task.choice(step, task.sampler.steps, len(now))
        tokens[:, now] = drawer.step(task.rows(tokens), choice, now).tokens
        done = revealed


def reveal_surest(drawer: Drawer, task: Task, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
    """Fill the open positions (T',) of tokens (B, T): draw all, keep the surest or any, mask the others again."""
    sampler, steps, count = task.sampler, task.sampler.steps, len(positions)
    by_logit, by_chance = sampler.reveal == "logit", sampler.reveal == "random"
    for step, masked in steps_surest(sampler, count):
        unknown = tokens[:, positions] == task.shape.mask_token  # (B, T'), as many in each row
        disturbance = sampler.choice_at(step, steps)
        # A position that drew the mask token would count as open again.
        drawn_from = (count, task.shape.vocabulary)
        choice = Choice.at(sampler, task.noise, step, steps, drawn_from, disturbance if by_logit else None)
        wanted = unknown.any(axis=0)  # open in some picture
        choice = replace(choice, noise=choice.noise[:, wanted])
        chosen = drawer.step(task.rows(tokens), choice, positions[wanted])
        drawn = tokens[:, positions]
        drawn[:, wanted] = np.where(unknown[:, wanted], chosen.tokens, drawn[:, wanted])
        if masked:
            sureness = np.full(unknown.shape, np.inf, dtype=np.float32)
            sureness[:, wanted] = chosen.logit if by_logit else chosen.log_probability
            if by_chance:
                sureness = task.noise.gumbel(step, (count,), "place")
            elif disturbance:
                sureness = sureness + np.float32(disturbance) * task.noise.gumbel(step, (count,), "place")
            sureness = np.where(unknown, sureness, np.inf)
            again = np.argsort(sureness, axis=1, kind="stable")[:, :masked]
            np.put_along_axis(drawn, again, task.shape.mask_token, axis=1)
        tokens[:, positions] = drawn


def masks(count: int, length: int, seed: int) -> NDArray[np.bool_]:
    """Which positions are masked (B, T); at least one of each picture.

    The share that is masked goes evenly over the cosine schedule's (arXiv 2202.04200) from one picture to the next, and
    positions are drawn from the seed and the picture's number, so that equal calls mask the same.
    """
    chosen = np.zeros((count, length), dtype=bool)
    offset = np.random.Generator(np.random.Philox(key=seed)).random()
    for picture in range(count):
        generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, picture]))
        done = (offset + picture * GOLDEN) % 1.0
        hidden = max(1, math.ceil(math.cos(done * math.pi / 2) * length))
        chosen[picture, generator.permutation(length)[:hidden]] = True
    return chosen
