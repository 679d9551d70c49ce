"""What the pipeline tells whoever runs it; the command line shows it, a program may ignore it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Takes (done, total, current values) of one long piece of work."""

    def __call__(self, done: int, total: int, values: dict[str, float]) -> None: ...


class Listener(Protocol):
    """Receives one-line messages, and opens a progress bar for long work."""

    def say(self, text: str) -> None:
        """One line for a person."""

    def work(self, title: str) -> AbstractContextManager[Progress]:
        """A piece of work that takes a while."""


class Silent:
    """A listener that ignores everything."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def work(self, title: str) -> AbstractContextManager[Progress]:
        """Ignore it."""
        return nullcontext(lambda done, total, values: None)
