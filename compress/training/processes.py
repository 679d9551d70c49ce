"""Train in several processes of this machine, which the caller starts: what ``--on torchrun:N`` does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from compress.training.loop import OnProgress
from compress.training.world import World, join
from compress.workers.gang import Member, together

T = TypeVar("T")
Training = Callable[[World, OnProgress], T]  # called in each process; pickled, with all that it holds


def train_together(training: Training[T], size: int, report: OnProgress, say: Callable[[str], None]) -> T:
    """What a training gives in the first of `size` processes; the first one's progress is reported.

    Raises:
        InputError: the training says so, or its processes died again and again.
    """
    made: T = together(partial(trained, training), size, lambda progress: report(*progress), say)
    return made


def trained(training: Training[Any], member: Member) -> Any:
    """What a training gives in this process."""

    def report(step: int, steps: int, values: dict[str, float]) -> None:
        if member.rank == 0:
            member.say((step, steps, values))

    with join(member.rank, member.size, member.rank, member.url) as world:
        return training(world, report)
