"""The loss of distillation at a step: what the teacher says of a batch against what the student says of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from itertools import pairwise

import torch

from compress.models.transformer.examples import Examples
from compress.models.transformer.model import TokenTransformer
from compress.training.device import Precision, computing
from compress.training.divergence import Divergence
from compress.training.gradients import Part
from compress.training.on_policy import OwnPictures
from compress.training.teaching import Answer, Draws, Teacher, answer, hidden_loss
from compress.training.world import ALONE, World

CPU = torch.device("cpu")


class Lesson:
    """The loss of a step: the divergence, and `hidden` times the error of the hidden states of `own_layers`.

    Of the batch each process of a `world` has its rows, in at least `parts` / N parts, whose losses in all processes
    add up to the loss of the whole: each part counts by its share of the scored tokens and of the pictures. The student
    computes in `precision`, losses are float32. Behind the training pictures of a batch stand `own_count` of the
    student's own pictures, where it has some.
    """

    def __init__(
        self,
        student: TokenTransformer,
        teacher: Teacher,
        draws: Draws,
        divergence: Divergence,
        *,
        own_layers: Sequence[int],
        hidden: float,
        parts: int = 1,
        precision: Precision = "float32",
        own: OwnPictures | None = None,
        own_count: int = 0,
        world: World = ALONE,
    ) -> None:
        self.student, self.teacher, self.draws, self.divergence = student, teacher, draws, divergence
        self.own_layers, self.hidden, self.precision = own_layers, hidden, precision
        self.own, self.own_count, self.world = own, own_count, world
        self.parts = -(-parts // world.size)
        self.rows = world.rows(draws.batch + own_count)

    @property
    def training_rows(self) -> slice:
        """Which of the training pictures of a batch are this process's."""
        return slice(*(min(end, self.draws.batch) for end in (self.rows.start, self.rows.stop)))

    @property
    def own_rows(self) -> slice:
        """Which of the student's own pictures of a batch are this process's."""
        return slice(*(max(end - self.draws.batch, 0) for end in (self.rows.start, self.rows.stop)))

    def __call__(self, step: int) -> list[Part]:
        """The parts of this process's share of the loss of a step."""
        whole, wanted = self.taught(step)
        batch = whole.take(self.rows)
        sizes = [layer.square().mean() for layer in wanted.hidden]
        if sizes:
            sizes = list(self.world.total(torch.stack(sizes)) / self.world.size)
        return [
            partial(self.part, batch.take(rows), wanted.take(rows), sizes, whole)
            for rows in slices(len(batch), self.parts)
        ]

    def part(self, batch: Examples, wanted: Answer, sizes: Sequence[torch.Tensor], whole: Examples) -> torch.Tensor:
        """What some examples of the whole batch add to the loss; `sizes` are the mean squares of the hidden states."""
        with computing(CPU, self.precision):
            own = answer(self.student, batch, self.own_layers)
        own = own.float()
        share = float(batch.scored.sum() / whole.scored.sum())
        loss = self.divergence(wanted.logits, own.logits, batch.scored) * share
        if self.own_layers:
            loss = loss + self.hidden * (len(batch) / len(whole)) * hidden_loss(wanted, own, sizes)
        return loss

    def taught(self, step: int) -> tuple[Examples, Answer]:
        """The examples of a step, and what the teacher says of this process's rows of them."""
        batches, answers = [], []
        own = None if self.own is None else self.draws.others(self.own.at(step, self.own_count), step)
        if self.draws.batch:
            chosen, rows = self.draws.step(step), self.training_rows
            batches.append(self.draws.examples_at(chosen, step))
            if rows.stop > rows.start:
                answers.append(self.teacher(chosen[rows], batches[0].take(rows)))
        if own is not None:
            batches.append(own)
            if self.own_rows.stop > self.own_rows.start:
                answers.append(self.teacher.ask(own.take(self.own_rows)))
        return reduce(Examples.followed_by, batches), reduce(Answer.followed_by, answers)


def slices(count: int, parts: int) -> list[slice]:
    """So many runs of rows of equal length, or one apart."""
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
