"""Requests that get no pictures: the status, one line that says why, and what the metrics count."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["ok", "invalid", "full", "timeout", "abandoned", "stopping", "failed"]


class RefusedError(Exception):
    """A request that is answered without pictures; with `retry_s` it may come again after so many seconds."""

    def __init__(self, status: int, text: str, outcome: Outcome = "invalid", retry_s: int = 0) -> None:
        super().__init__(text)
        self.status, self.text, self.outcome, self.retry_s = status, text, outcome, retry_s

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside the line."""
        return {"Retry-After": str(self.retry_s)} if self.retry_s else {}
