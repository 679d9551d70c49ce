"""What a worker and a crew of workers are, whatever they run on; and what a worker does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compress.core.settings import one_line

Function = Callable[[Any], Any]  # does one task
Say = Callable[[Any], None]  # a word on the way to whoever handed out the tasks; pickled
Maker = Callable[[Say], Function]  # makes it inside of a worker, once; it is pickled, with all that it holds


@dataclass(frozen=True)
class Task:
    """A piece of work: its name, for people, and what the function gets, which is pickled."""

    name: str
    argument: Any


@dataclass(frozen=True)
class Done:
    """What a worker's function gave: of a task, or the versions of its libraries when it is ready."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """A function that raised an error: what it says, in one line."""

    fault: str


@dataclass(frozen=True)
class Said:
    """A message on the way."""

    content: Any


def unheard(content: Any) -> None:
    """Nobody listens."""


class LostError(Exception):
    """A worker that is gone, with its task; the text says how."""


class Worker(Protocol):
    """One worker, as whoever hands out the tasks sees it. Its first reply says that it is ready."""

    @property
    def name(self) -> str:
        """Which one, for people."""

    def send(self, argument: Any) -> None:
        """Hand it a task; it has none.

        Raises:
            LostError: it is gone.
        """

    def reply(self) -> Done | Failed:
        """What came of its task, or of its start, behind `Crew.ready`.

        Raises:
            LostError: it is gone.
        """

    def stop(self) -> None:
        """End it at once, whatever it does."""


class Crew(Protocol):
    """The workers of one place."""

    @property
    def size(self) -> int:
        """How many workers it can have now."""

    def start(self) -> Worker:
        """One worker more; it is not waited for."""

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Those of the workers that have a reply or are gone; waits a moment for the first one.

        What workers said in the meantime is heard here, before the replies.
        """


def attempted(function: Callable[[], Any]) -> Done | Failed:
    """What a function gives or how it fails, as a reply; warnings are for whoever hands out the tasks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Done(function())
    except BaseException as error:  # also what is no Exception: a worker has nobody else to tell it
        return Failed(one_line(said_of(error)))


def said_of(error: BaseException) -> str:
    """An error in one line; those of this project speak for themselves."""
    text = str(error).strip().partition("\n")[0]
    own = type(error).__module__.partition(".")[0] in ("compress", "export", "calibration")
    return text if own and text else f"{type(error).__name__}: {text}".removesuffix(": ")
