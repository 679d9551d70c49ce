"""Keep a process on as many cores as it has threads while it is timed: threads that wander lose their caches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TASKS = Path("/proc/self/task")
TOPOLOGY = Path("/sys/devices/system/cpu")


@contextmanager
def pinned(threads: int) -> Iterator[list[int]]:
    """Every thread that the process has stays on so many processors, which are given; afterwards they are free again.

    Elsewhere than on Linux nothing happens, and the list is empty.
    """
    if not hasattr(os, "sched_setaffinity") or not TASKS.is_dir():
        yield []
        return
    allowed = os.sched_getaffinity(0)
    chosen = processors(sorted(allowed), threads)
    move(set(chosen))
    try:
        yield chosen
    finally:
        move(allowed)


def processors(allowed: list[int], threads: int, topology: Path = TOPOLOGY) -> list[int]:
    """One processor of each physical core, then their siblings, until there are as many as threads."""
    seen: set[str] = set()
    first: list[int] = []
    second: list[int] = []
    for number in allowed:
        try:
            core = (topology / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip()
        except OSError:
            core = str(number)
        (second if core in seen else first).append(number)
        seen.add(core)
    return sorted([*first, *second][: max(threads, 1)])


def move(processors: set[int]) -> None:
    """Put every thread of this process on these processors."""
    for task in TASKS.iterdir():
        with suppress(OSError):  # it ended meanwhile
            os.sched_setaffinity(int(task.name), processors)
