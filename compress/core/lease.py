"""The machine's lease: whoever times holds it alone, and waits until those who work beside it have finished a piece.

There is one for the machine, whatever stores and users work on it: two files below the folder for temporary files. One
is held alone while something is timed, and shared while a trial works. Who wants to time holds the other one while it
waits, so that no new work begins: a lock of files alone would let work that overlaps keep it waiting for ever. All of
them are released when their process ends, however it ends. Work is not nested: a lease inside of a lease would wait for
the one who waits for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from compress.core.locks import EXCLUSIVE, SHARED, Lock

SYSTEM = Path("/tmp")  # the same for all users, whatever their TMPDIR says
HELD, WANTED = "compress-machine.lock", "compress-machine-wanted.lock"


def folder() -> Path:
    """Where the files of the lease lie."""
    return SYSTEM if SYSTEM.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def timing(say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Have the machine alone, to time something; says so if it has to wait.

    Raises:
        InputError: the file system has no locks.
    """
    said = False

    def waiting() -> None:
        nonlocal said
        if not said:
            say("timing: another job of compress works or times on this machine; waiting for it")
        said = True

    with taken(WANTED, EXCLUSIVE, waiting), taken(HELD, EXCLUSIVE, waiting):
        yield


@contextmanager
def working() -> Iterator[None]:
    """Work beside others that work; begins when nobody times or waits to time.

    Raises:
        InputError: the file system has no locks.
    """
    with ExitStack() as stack:
        with taken(WANTED, EXCLUSIVE, lambda: None):
            stack.enter_context(taken(HELD, SHARED, lambda: None))
        yield


@contextmanager
def taken(name: str, kind: int, wait: Callable[[], None]) -> Iterator[None]:
    """Hold one of the two locks."""
    lock = Lock(folder() / name)
    try:
        lock.take(kind, wait=wait)
        yield
    finally:
        lock.release()
