"""A listener of tests, which keeps what was said."""

from __future__ import annotations

from compress.core.listener import Silent


class Heard(Silent):
    """Keeps every line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)
