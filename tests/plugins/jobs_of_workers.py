"""What workers do in tests; it is here because processes that a test starts find this folder, and not the tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.workers.crew import Say


@dataclass(frozen=True)
class Squares:
    """Squares of numbers; every call of a number leaves a file in a folder, and some numbers bring accidents.

    `fatal` ones kill their worker, `wrong` ones raise, but only `accidents` times. `start` names what fails at once:
    "error" or "death".
    """

    folder: Path
    fatal: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    accidents: int = 9
    seconds: float = 0.0
    start: str = ""

    def __call__(self, say: Callable[[Any], None]) -> Callable[[Any], Any]:
        """As a worker begins."""
        if self.start == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.start == "error":
            raise ValueError("no engine\nof this name")
        return self.square

    def square(self, number: int) -> int:
        """The square."""
        before = len(list(self.folder.glob(f"{number}-*")))
        (self.folder / f"{number}-{time.monotonic_ns()}-{os.getpid()}").touch()
        time.sleep(self.seconds)
        if before < self.accidents:
            if number in self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            if number in self.wrong:
                raise ValueError(f"{number} is wrong\nand more")
        return number**2


@dataclass(frozen=True)
class Told:
    """Says a number twice on the way, and gives it."""

    def __call__(self, say: Callable[[Any], None]) -> Callable[[Any], Any]:
        """As a worker begins."""

        def tell(number: int) -> int:
            say(number)
            say(number)
            return number

        return tell


@dataclass(frozen=True)
class Slept:
    """Sleeps as long as it is told; says how long that took, that it took no processor, and gives nothing."""

    def __call__(self, say: Callable[[Any], None]) -> Callable[[Any], Any]:
        """As a worker begins."""

        def sleep(seconds: float) -> tuple[float, float, None]:
            began = time.monotonic()
            time.sleep(seconds)
            return time.monotonic() - began, 0.0, None

        return sleep


def children(pid: int) -> list[int]:
    """The workers of a process, the oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return sorted(found)


class Talkative:
    """Says far more than a pipe holds, then makes a file."""

    def __call__(self, say: Say) -> Callable[[Path], None]:
        def told(path: Path) -> None:
            for _ in range(2000):
                say("x" * 1000)
            path.touch()

        return told
