"""What this process holds of the machine's memory, and giving back what it no longer uses."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STATM = Path("/proc/self/statm")
EVERY_S = 0.005


def resident_mib() -> float:
    """Resident memory of this process in MiB; 0 where the system does not say it (other than Linux)."""
    try:
        pages = int(STATM.read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def give_back() -> None:
    """Return freed memory to the system: glibc keeps that of a pass's peak, and later peaks come on top of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


@dataclass
class Growth:
    """How far resident memory rose above what it was at the beginning, MiB."""

    before: float
    peak: float

    @property
    def mib(self) -> float:
        """The rise."""
        return max(0.0, self.peak - self.before)


@contextmanager
def watched() -> Iterator[Growth]:
    """The growth while the block runs, complete when it ends; a peak of a few milliseconds may be seen in part."""
    give_back()
    growth = Growth(resident_mib(), resident_mib())
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY_S):
            growth.peak = max(growth.peak, resident_mib())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        ended.set()
        watcher.join()
        growth.peak = max(growth.peak, resident_mib())
