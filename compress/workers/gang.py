"""Processes of this machine that do one piece of work together: all of them live, or all are started again.

Unlike the workers of a crew they wait for each other, so one that dies takes the work of all with it. The work goes on
from what it kept itself (a training's checkpoint).
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from compress.core.launched import LostError, SaidElsewhereError
from compress.core.settings import InputError
from compress.workers.crew import Said, said_of
from compress.workers.local import end_with_parent, without_interruptions

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

RESTARTS = 3  # after so many the work is given up
GRACE_S = 20.0  # how long the others may take to keep what they have when one ends, or the user interrupts


@dataclass(frozen=True)
class Member:
    """One process of a gang, as its work sees it: its number, how many there are, and a file that only they know."""

    rank: int
    size: int
    meeting: Path
    say: Callable[[Any], None]  # to whoever started the gang; pickled

    @property
    def url(self) -> str:
        """Where PyTorch's processes of the gang find each other."""
        return f"file://{self.meeting}"


Work = Callable[[Member], Any]  # pickled, with all that it holds


@dataclass(frozen=True)
class Ended:
    """How a process ended: with the value of the work, pickled, which the first one has; or with a fault.

    A fault may be that of another process, and one that the user can mend.
    """

    value: bytes = b""
    fault: str = ""
    own: bool = True
    mendable: bool = False


def together(work: Work, size: int, heard: Callable[[Any], None], say: Callable[[str], None]) -> Any:
    """What the work gives in the first of `size` processes; `heard` is called with what they say on the way.

    Raises:
        InputError: the work says that the input is wrong, or processes died again and again.
        RuntimeError: the work failed otherwise.
    """
    payload = pickle.dumps(work)  # not by multiprocessing's pickler, which would share PyTorch's memory
    for attempt in range(RESTARTS + 1):
        with tempfile.TemporaryDirectory(prefix="compress-gang-") as room:
            died = Gang(payload, size, Path(room) / "meeting").outcome(heard)
        if isinstance(died, Ended):
            return pickle.loads(died.value)
        if attempt < RESTARTS:
            say(f"{died}; all {size} processes go on from the last checkpoint")
    raise InputError(f"{died}; started again {RESTARTS} times, and given up; what was finished is kept")


class Gang:
    """The processes of one attempt."""

    def __init__(self, payload: bytes, size: int, meeting: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.members: dict[Connection, Any] = {}
        self.names: dict[Connection, str] = {}
        self.ends: dict[Connection, Ended | str] = {}  # in the order in which they ended
        for rank in range(size):
            pipe, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, payload, rank, size, meeting), daemon=True)
            without_interruptions(process.start)
            theirs.close()
            self.members[pipe] = process
            self.names[pipe] = f"process {rank} of {size} ({process.pid})"

    def outcome(self, heard: Callable[[Any], None]) -> Ended | str:
        """How the first process ended well, or who died.

        Raises:
            InputError: see `together`.
            RuntimeError: likewise.
        """
        try:
            self.wait(heard)
        except BaseException:
            self.end_first()
            raise
        finally:
            for process in self.members.values():
                process.kill()
                process.join()
                process.close()
            for pipe in self.members:
                pipe.close()
        deaths = [f"{self.names[pipe]} {end}" for pipe, end in self.ends.items() if isinstance(end, str)]
        said = [end for end in self.ends.values() if isinstance(end, Ended)]
        for end in said:
            if end.fault and end.own:
                raise InputError(end.fault) if end.mendable else RuntimeError(end.fault)
        if len(said) == len(self.members) and not any(end.fault for end in said):
            return next(end for end in said if end.value)
        return deaths[0] if deaths else next(end.fault for end in said if end.fault)

    def wait(self, heard: Callable[[Any], None]) -> None:
        """Listen until all have ended; once one has, the others may take a while, unless all goes well."""
        latest = float("inf")
        while len(self.ends) < len(self.members) and time.monotonic() < latest:
            open_pipes = [pipe for pipe in self.members if pipe not in self.ends]
            ready = connection.wait(open_pipes, timeout=1.0)
            for pipe in [pipe for pipe in open_pipes if pipe in ready]:
                try:
                    said = pipe.recv()
                except (EOFError, OSError):
                    said = self.death(pipe)
                if isinstance(said, Said):
                    heard(said.content)
                    continue
                self.ends[pipe] = said
                if isinstance(said, str) or said.fault:
                    latest = min(latest, time.monotonic() + GRACE_S)

    def death(self, pipe: Connection) -> str:
        """How a process ended that said nothing."""
        process = self.members[pipe]
        process.join()
        code = process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def end_first(self) -> None:
        """Interrupt the first process, which keeps what it has; the others are still there for what it is at."""
        first = next(iter(self.members.values()))
        first.terminate()
        first.join(GRACE_S)


def serve(pipe: Connection, payload: bytes, rank: int, size: int, meeting: Path) -> None:
    """What a process does: its work, and a word on how that ended."""
    Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, interrupt)
    pipe.send(attempted(payload, Member(rank, size, meeting, lambda content: pipe.send(Said(content)))))


def attempted(payload: bytes, member: Member) -> Ended:
    """Do the work; how it ended."""
    try:
        value = pickle.loads(payload)(member)
        return Ended(pickle.dumps(value) if member.rank == 0 else b"")
    except BaseException as error:  # also what is no Exception: it has nobody else to tell it
        own = not isinstance(error, (LostError, SaidElsewhereError))
        return Ended(fault=said_of(error), own=own, mendable=isinstance(error, InputError))


def interrupt(number: int, frame: FrameType | None) -> None:
    """Stop as Ctrl-C does."""
    raise KeyboardInterrupt
