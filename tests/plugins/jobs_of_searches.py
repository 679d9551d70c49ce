"""Workers of searches in tests; it is here because processes that a test starts find this folder, and not the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.core import lease
from compress.searching.side_by_side import Ask, Trying


class Quiet(Trying):
    """Workers with leases of their own, so that tests neither wait for what runs beside them nor hold it up."""

    def __call__(self, say: Callable[[Any], None]) -> Callable[[Ask], Any]:
        """As a worker begins."""
        lease.SYSTEM = Path(self.mark.place).parent
        return super().__call__(say)


class Accident(Quiet):
    """Workers that die at the first trial once, and at one combination always; marks lie in the folder of the store."""

    def __call__(self, say: Callable[[Any], None]) -> Callable[[Ask], Any]:
        """As a worker begins."""
        tried = super().__call__(say)

        def fatal(ask: Ask) -> Any:
            once = Path(self.mark.place, "accident")
            if ask.number == 0 and not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if dict(ask.picked) == {"prune-ffn.ratio": 0.5, "prune-heads used": False}:
                os.kill(os.getpid(), signal.SIGKILL)
            return tried(ask)

        return fatal
