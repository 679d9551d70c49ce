"""Signals that ask a job to stop: each is treated as Ctrl-C, so a training writes its checkpoint first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# A wrapper may pass on the Ctrl-C that the terminal sent to both: what comes this soon is the same one.
SAME_S = 0.5
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.number = 0
        self.at = 0.0
        self.is_over = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the job; a second signal that a person sends ends the process at once."""
        if self.is_over:
            return
        if not self.number:
            self.number, self.at = number, time.monotonic()
            raise KeyboardInterrupt
        if number != getattr(signal, "SIGHUP", None) and time.monotonic() - self.at > SAME_S:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopped at once; what was finished before is kept\n")
            os._exit(128 + number)

    def over(self) -> None:
        """The job has ended: no signal changes its outcome any more."""
        self.is_over = True

    @property
    def code(self) -> int:
        """The exit code, as a shell has it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + (self.number or signal.SIGINT)

    def words(self) -> str:
        """What happened, for the line that says so."""
        by = "interrupted" if self.number in (0, signal.SIGINT) else f"stopped by {signal.Signals(self.number).name}"
        return f"{by}; what was finished is kept, and the next run goes on from there"


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Let the signals interrupt what runs inside; those that whoever started this process ignores stay ignored."""
    stop, before = Stop(), {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
