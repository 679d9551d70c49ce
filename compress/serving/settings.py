"""What a service allows, and how it draws."""

from __future__ import annotations

from dataclasses import dataclass

from export.runtime.batching import DEADLINE_S

LOG = "uvicorn.error"  # where uvicorn and the service say what went wrong


@dataclass(frozen=True)
class Settings:
    """The numbers of a service.

    `batch` pictures are drawn at once at most, 0 for as many as gain by it; `deadline_s` is how long a picture waits
    for others; `capacity` pictures may wait; `workers` batches are drawn at a time. A request asks for `most_pictures`
    at most, and has its answer within `timeout_s` or none.
    """

    batch: int = 0
    deadline_s: float = DEADLINE_S
    capacity: int = 256
    workers: int = 1
    most_pictures: int = 16
    timeout_s: float = 30.0
