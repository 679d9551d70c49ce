"""Loops that several threads draw with: each is lent to one drawing at a time, and a few are kept between drawings.

A loop owns the buffers of a fixed number of rows, so two drawings must never share one; the sessions behind all of them
are shared, and with them the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from .drawing import Runner

KEPT_LOOPS = 8  # idle loops, whatever sizes were drawn and however many threads came and went
KEPT_ROWS = 128  # rows of all of these: the buffers of two guided batches of the size that is drawn at once at most


class Lending:
    """Makes loops, lends them and keeps those that were used last."""

    def __init__(self, make: Callable[[int], Runner]) -> None:
        self.make, self.lock = make, Lock()
        self.idle: list[tuple[int, Runner]] = []  # rows and loop, the one used last at the end

    @contextmanager
    def lent(self, rows: int) -> Iterator[Runner]:
        """A loop for so many rows that nobody else uses meanwhile.

        It is not kept if the drawing fails: its buffers may be bound halfway.
        """
        loop = self._take(rows)
        yield loop
        self._keep(rows, loop)

    def _take(self, rows: int) -> Runner:
        with self.lock:
            for index in reversed(range(len(self.idle))):
                if self.idle[index][0] == rows:
                    return self.idle.pop(index)[1]
            return self.make(rows)

    def _keep(self, rows: int, loop: Runner) -> None:
        with self.lock:
            self.idle.append((rows, loop))
            while len(self.idle) > KEPT_LOOPS or self.rows > KEPT_ROWS:  # one that is larger is not kept at all
                self.idle.pop(0)

    @property
    def rows(self) -> int:
        """Rows of all idle loops."""
        return sum(rows for rows, _ in self.idle)
