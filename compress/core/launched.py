"""What torchrun says to each process that it starts; nothing heavy is imported for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from compress.core.settings import InputError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
SAID_S = 1.0  # torchrun stops all processes when one has ended: those with nothing to say end last
STARTED = "TORCHELASTIC_RUN_ID"  # torchrun sets it, and nothing else does


class SaidElsewhereError(Exception):
    """This process ends because of something that another process of the same job says. Exit code 2, no line."""


class LostError(InputError):
    """Another process of the same job ended in the middle of it."""


@dataclass(frozen=True)
class Launch:
    """Which of torchrun's processes this is, of all and of its machine's, and how often they were started again."""

    rank: int
    size: int
    local_rank: int
    restarts: int = 0

    @property
    def speaks(self) -> bool:
        """Whether it says what all processes of a machine would say: how a command is used, that it was stopped."""
        return self.local_rank == 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Which process this is; None where torchrun did not start it."""
    if STARTED not in environment:
        return None
    return Launch(*(int(environment[name]) for name in NAMES))


def refuse_torchrun(instead: str) -> None:
    """End a command that is one process where torchrun started several.

    Raises:
        InputError: says what to use instead.
        SaidElsewhereError: the same, in all but one process of a machine.
    """
    if (found := launch()) is not None:
        if found.speaks:
            raise InputError(f"torchrun has started {found.size} processes, and this command is one; use {instead}")
        raise SaidElsewhereError


def end_after_others() -> None:
    """Leave the process that says what went wrong the time to say it."""
    time.sleep(SAID_S)


def first() -> bool:
    """Whether this process is the first of those that torchrun started, or the only one."""
    found = launch()
    return found is None or found.rank == 0


def speaks() -> bool:
    """Whether this process says what all processes of its machine would say."""
    found = launch()
    return found is None or found.speaks
