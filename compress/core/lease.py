"""The machine's leases: one job times at once, and a trial of a search is timed while no other trial works.

They are for the machine, whatever stores and users work on it: files in the folder for temporary files, whose locks are
released when their process ends, however it ends. `timing` is held by whatever times, and nobody holds it long.
`working` is shared by trials that work, for hours where they train; `alone` waits until all of them have finished a
piece of work. Who waits for `alone` holds a third file meanwhile, so that no new work begins: a lock of a file by
itself would let work that overlaps keep it waiting for ever. Work is not nested: work inside of work would wait for the
one who waits for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from compress.core.locks import EXCLUSIVE, SHARED, Lock

SYSTEM = Path("/tmp")  # the same for all users, whatever their TMPDIR says
TIMING, WORK, WANTED = "compress-timing.lock", "compress-work.lock", "compress-alone.lock"


@contextmanager
def timing(say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Time something while no other job of this machine times; says so if it has to wait.

    Raises:
        InputError: the file system has no locks.
    """
    with taken(TIMING, EXCLUSIVE, lambda: say("timing: another job times on this machine; waiting for it")):
        yield


@contextmanager
def alone(say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Keep all trials of this machine from working, to time one; says so if it has to wait.

    Raises:
        InputError: the file system has no locks.
    """
    with (
        taken(WANTED, EXCLUSIVE, lambda: None),
        taken(WORK, EXCLUSIVE, lambda: say("timing: another trial works on this machine; waiting for it")),
    ):
        yield


@contextmanager
def working() -> Iterator[None]:
    """Work on a trial, beside others; begins when none is timed or waits for that.

    Raises:
        InputError: the file system has no locks.
    """
    with ExitStack() as stack:
        with taken(WANTED, EXCLUSIVE, lambda: None):
            stack.enter_context(taken(WORK, SHARED, lambda: None))
        yield


@contextmanager
def taken(name: str, kind: int, wait: Callable[[], None]) -> Iterator[None]:
    """Hold one of the locks."""
    folder = SYSTEM if SYSTEM.is_dir() else Path(tempfile.gettempdir())
    lock = Lock(folder / name)
    try:
        lock.take(kind, wait=wait)
        yield
    finally:
        lock.release()
