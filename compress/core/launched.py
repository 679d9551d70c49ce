"""What torchrun says to each process that it starts; nothing heavy is imported for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

STARTED = "TORCHELASTIC_RUN_ID"  # torchrun sets it, and nothing else does


class SaidElsewhereError(Exception):
    """This process ends because of something that another process of the same job says. Exit code 2, no line."""


@dataclass(frozen=True)
class Launch:
    """Which of torchrun's processes this is: of all, and of those on this machine."""

    rank: int
    size: int
    local_rank: int

    @property
    def speaks(self) -> bool:
        """Whether it says what all processes of a machine would say: how a command is used, that it was stopped."""
        return self.local_rank == 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Which process this is; None where torchrun did not start it."""
    if STARTED not in environment:
        return None
    return Launch(*(int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def speaks() -> bool:
    """Whether this process says what all processes of its machine would say."""
    found = launch()
    return found is None or found.speaks
