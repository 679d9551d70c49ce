"""The loss of distillation at a step: what the teacher says of a batch against what the student says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from compress.models.transformer.examples import Examples
from compress.models.transformer.model import TokenTransformer
from compress.training.device import Precision, computing
from compress.training.divergence import Divergence
from compress.training.on_policy import OwnPictures
from compress.training.teaching import Answer, Draws, Teacher, answer, hidden_loss

CPU = torch.device("cpu")


class Lesson:
    """The loss of a step: the divergence, and `hidden` times the error of the hidden states of `own_layers`.

    The batch is taken in `parts`, whose losses add up to the loss of the whole: each part counts by its share of the
    scored tokens and of the pictures. The student computes in `precision`, losses are float32. Behind the training
    pictures of a batch stand `own_count` of the student's own pictures, where it has some.
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
    ) -> None:
        self.student, self.teacher, self.draws, self.divergence = student, teacher, draws, divergence
        self.own_layers, self.hidden, self.parts, self.precision = own_layers, hidden, parts, precision
        self.own, self.own_count = own, own_count

    def __call__(self, step: int) -> Iterator[torch.Tensor]:
        """The parts of the loss of a step."""
        batch, wanted = self.taught(step)
        sizes = [layer.square().mean() for layer in wanted.hidden]
        for rows in slices(len(batch), self.parts):
            part, taught = batch.take(rows), wanted.take(rows)
            with computing(CPU, self.precision):
                own = answer(self.student, part, self.own_layers)
            own = own.float()
            loss = self.divergence(taught.logits, own.logits, part.scored) * (part.scored.sum() / batch.scored.sum())
            if self.own_layers:
                loss = loss + self.hidden * (len(part) / len(batch)) * hidden_loss(taught, own, sizes)
            yield loss

    def taught(self, step: int) -> tuple[Examples, Answer]:
        """The examples of a step, and what the teacher says of them."""
        if self.own is not None:
            own = self.draws.others(self.own.at(step, self.own_count), step)
            if not self.draws.batch:
                return own, self.teacher.ask(own)
        chosen = self.draws.step(step)
        batch = self.draws.examples_at(chosen, step)
        wanted = self.teacher(chosen, batch)
        if self.own is None:
            return batch, wanted
        return batch.followed_by(own), wanted.followed_by(self.teacher.ask(own))


def slices(count: int, parts: int) -> list[slice]:
    """So many runs of rows of equal length, or one apart."""
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]
