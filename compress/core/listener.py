"""What the pipeline tells whoever runs it; the command line shows it, a program may ignore it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

STEP = "in progress: "  # begins the note that an error carries from the step it was raised in


class Progress(Protocol):
    """Takes (done, total, current values) of one long piece of work."""

    def __call__(self, done: int, total: int, values: dict[str, float]) -> None: ...


class Listener(Protocol):
    """Receives one-line messages, and opens a progress bar for long work."""

    def say(self, text: str) -> None:
        """One line for a person."""

    def work(self, title: str) -> AbstractContextManager[Progress]:
        """A piece of work that takes a while."""


@contextmanager
def step(name: str) -> Iterator[None]:
    """Let every error that is raised inside carry the name of the step, for `step_of`."""
    try:
        yield
    except Exception as error:
        error.add_note(STEP + name)
        raise


def step_of(error: BaseException) -> str:
    """The innermost step that an error was raised in; empty where it is not known."""
    notes = (note for note in getattr(error, "__notes__", ()) if note.startswith(STEP))
    return next(notes, "").removeprefix(STEP)


def as_lines(title: str, say: Callable[[str], None], pause_s: float) -> Progress:
    """Progress as lines of text, at most one in so many seconds."""
    said_at = time.monotonic()

    def progress(done: int, total: int, values: dict[str, float]) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= pause_s:
            said_at = time.monotonic()
            say(f"  {title}: {done} of {total}  {numbers(values)}".rstrip())

    return progress


def numbers(values: dict[str, float]) -> str:
    """The numbers beside a progress bar."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Silent:
    """A listener that ignores everything."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def work(self, title: str) -> AbstractContextManager[Progress]:
        """Ignore it."""
        return nullcontext(lambda done, total, values: None)
