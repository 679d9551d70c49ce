"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
from collections.abc import Callable, Sequence
from itertools import count
from multiprocessing import connection, resource_tracker
from threading import Thread
from typing import TYPE_CHECKING, Any

from compress.workers.crew import Done, Failed, Function, LostError, Maker, Said, Say, Worker, attempted, unheard
from compress.workers.versions import versions

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WAIT_S = 1.0


class LocalCrew:
    """At most `size` processes, each with a function of its own that `make` makes."""

    def __init__(self, size: int, make: Maker, heard: Say = unheard) -> None:
        self.size, self.make, self.heard = size, make, heard
        self.numbers = count(1)

    def start(self) -> Worker:
        """As `Crew` says."""
        return LocalWorker(next(self.numbers), self.make)

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """As `Crew` says."""
        pipes = {worker.pipe: worker for worker in workers if isinstance(worker, LocalWorker)}
        there = [pipes[pipe] for pipe in connection.wait(list(pipes), WAIT_S)]  # type: ignore[index]
        return [worker for worker in there if worker.has_replied(self.heard)]


class LocalWorker:
    """A process that is started afresh, not forked off: it loads what it needs, and has threads of its own."""

    def __init__(self, number: int, make: Maker) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make), daemon=True)
        without_interruptions(self.process.start)
        theirs.close()
        self.name = f"worker {number} (process {self.process.pid})"
        self.answer: Done | Failed | None = None

    def send(self, argument: Any) -> None:
        """As `Worker` says."""
        try:
            self.pipe.send(argument)
        except OSError as error:
            raise LostError(self.end()) from error

    def has_replied(self, heard: Say) -> bool:
        """Read what it sent: whether that is a reply, or its end, and no word on the way."""
        try:
            sent = self.pipe.recv()
        except (EOFError, OSError):
            self.answer = None
            return True
        if isinstance(sent, Said):
            heard(sent.content)
            return False
        self.answer = sent
        return True

    def reply(self) -> Done | Failed:
        """As `Worker` says."""
        if self.answer is None:
            raise LostError(self.end())
        return self.answer

    def end(self) -> str:
        """How it ended."""
        self.process.join()
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def stop(self) -> None:
        """As `Worker` says."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def without_interruptions(start: Callable[[], None]) -> None:
    """Start a process that no Ctrl-C or closed terminal reaches: whoever handed it its task decides what ends it."""
    resource_tracker.ensure_running()  # of multiprocessing; it would let signals through again when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection, make: Maker) -> None:
    """What a worker does until it is stopped: say that it is ready, and do one task after the other."""
    Thread(target=end_with_parent, daemon=True).start()
    made: list[Function] = []

    def say(content: str) -> None:
        # A line that nobody reads is left out: whoever hands out tasks may wait for what this task holds.
        if connection_is_free(pipe):
            pipe.send(Said(content))

    began = attempted(lambda: made.append(make(say)))
    pipe.send(Done(versions()) if made else began)
    while made:
        argument = pipe.recv()
        pipe.send(attempted(lambda: made[0](argument)))  # noqa: B023  called before the next one comes


def connection_is_free(pipe: Connection) -> bool:
    """Whether a line can be sent now; of a pipe of Windows that is not known."""
    return os.name != "posix" or bool(select.select([], [pipe], [], 0)[1])


def end_with_parent() -> None:
    """End this process with the one that hands out the tasks, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
