"""A queue in front of an engine: what many threads ask for is drawn together, and each gets what it would get alone.

Letters: n pictures of a request.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import QueueClosedError, QueueFullError
from .sampling import check_number, check_whole
from .serving import MOST_PICTURES, Request, drawn

if TYPE_CHECKING:
    from .engine import Engine

DEADLINE_S = 0.005  # a picture takes longer, so an idle engine loses little by waiting for company
CAPACITY = 1024  # pictures
LONGEST_S = 3600.0
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Batch:
    """What was drawn at once: requests, their pictures, and the seconds that it took."""

    requests: int
    pictures: int
    seconds: float


@dataclass(eq=False)
class Waiting:
    """A request that nobody draws yet; `apart` ones are drawn by themselves."""

    request: Request
    apart: bool
    since: float = field(default_factory=time.monotonic)
    future: Future[NDArray[np.uint8]] = field(default_factory=Future)

    @property
    def pictures(self) -> int:
        """How many it asks for."""
        return len(self.request.labels)


class BatchingQueue:
    """Requests wait until `most_batch` pictures are sampled alike, or the oldest of them waited for `deadline_s`.

    Of those that are due the oldest go first, and none is split; a request of more pictures than `most_batch` is drawn
    in parts. Where the logits of a picture depend on what else is in a call (`Engine.rows_depend`, which the first
    requests of a queue try) each request is drawn by itself. Picture i of a request has the noise of picture i of its
    seed, whatever is drawn beside it.

    `workers` batches are drawn at a time, by threads that share the engine's weights; threads end when nothing waits.
    `capacity` is in pictures that wait, those being drawn not counted. `on_batch` is told of every batch, in the thread
    that drew it, before its futures are done.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        most_batch: int = 0,
        deadline_s: float = DEADLINE_S,
        capacity: int = CAPACITY,
        workers: int = 1,
        on_batch: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        """A queue; `most_batch` 0 is as many as gain by it, and never more, or than half of the free memory holds.

        Raises:
            ValueError: a number is out of range.
        """
        check_whole("most_batch", most_batch, 0)
        check_number("deadline_s", deadline_s, 0, LONGEST_S)
        check_whole("capacity", capacity, 1)
        check_whole("workers", workers, 1, MOST_WORKERS)
        gaining = engine.shape.drawing.most_at_once
        self.engine, self.most = engine, min(most_batch or gaining, gaining)
        self.deadline_s, self.capacity, self.workers, self.on_batch = deadline_s, capacity, workers, on_batch
        self.changed = Condition()  # held by whoever reads or changes what is below
        self.waiting: dict[Hashable, deque[Waiting]] = {}  # those that may be drawn together, the oldest first
        self.depth = 0  # pictures that wait
        self.threads = 0
        self.closed = False

    def submit(self, request: Request) -> Future[NDArray[np.uint8]]:
        """The pictures (n, H, W, C) of a request, to come; cancelling works until its drawing begins.

        Raises:
            QueueFullError: too many pictures wait.
            QueueClosedError: `close` was called.
            ValueError: it asks for more pictures than may ever wait.
        """
        entry = Waiting(request, self.engine.rows_depend(request.sampler.guided))
        if entry.pictures > self.capacity:
            raise ValueError(f"{entry.pictures} pictures: at most {self.capacity} may wait; ask for fewer at a time")
        with self.changed:
            if self.closed:
                raise QueueClosedError("the queue is closed; nothing more is drawn")
            if self.depth + entry.pictures > self.capacity:
                raise QueueFullError(
                    f"the queue is full: {self.depth} of at most {self.capacity} pictures wait; try again later"
                )
            if self.threads < self.workers:
                Thread(target=self._work, name="image-token-engine").start()
                self.threads += 1
            self.waiting.setdefault(object() if entry.apart else request.sampler, deque()).append(entry)
            self.depth += entry.pictures
            self.changed.notify_all()
        entry.future.add_done_callback(partial(_done, weakref.ref(self)))
        return entry.future

    def close(self, *, cancel: bool = False) -> None:
        """Accept nothing more, and return when all that waits is drawn; or, with `cancel`, what is being drawn now."""
        with self.changed:
            self.closed = True
            rest = [entry for group in self.waiting.values() for entry in group] if cancel else []
            self.changed.notify_all()
        for entry in rest:
            entry.future.cancel()
        with self.changed:
            self.changed.wait_for(lambda: not self.threads)

    def __enter__(self) -> BatchingQueue:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(cancel=error is not None)

    def _work(self) -> None:
        """Draw until nothing waits."""
        while (batch := self._next()) is not None:
            self._draw(batch)

    def _next(self) -> list[Waiting] | None:
        """The batch that is due next, as soon as it is; None when this thread is to end, because nothing waits."""
        with self.changed:
            while self.waiting:
                ahead = {key: self._due(group) - time.monotonic() for key, group in self.waiting.items()}
                due = [key for key, seconds in ahead.items() if seconds <= 0]
                if due:
                    return self._take(min(due, key=lambda key: self.waiting[key][0].since))
                self.changed.wait(min(ahead.values()))
            self.threads -= 1
            self.changed.notify_all()
            return None

    def _due(self, group: deque[Waiting]) -> float:
        """When these are to be drawn, as `time.monotonic` counts."""
        full = group[0].apart or sum(entry.pictures for entry in group) >= self.most
        return group[0].since + (0 if full or self.closed else self.deadline_s)

    def _take(self, key: Hashable) -> list[Waiting]:
        """The oldest of a group, as many as make a batch, without those that were cancelled."""
        group, batch, pictures = self.waiting[key], list[Waiting](), 0
        while group and (not pictures or pictures + group[0].pictures <= self.most):
            entry = group.popleft()
            self.depth -= entry.pictures
            if entry.future.set_running_or_notify_cancel():
                batch.append(entry)
                pictures += entry.pictures
        if not group:
            del self.waiting[key]
        return batch

    def _draw(self, batch: list[Waiting]) -> None:
        """Draw and hand out; where a batch fails, each of its requests is drawn by itself and has its own error."""
        if not batch:
            return
        started = time.monotonic()
        try:
            most = MOST_PICTURES if batch[0].apart else self.most  # apart: in the calls of `Engine.generate`
            pictures = drawn(self.engine, [entry.request for entry in batch], most)
            self.on_batch(Batch(len(batch), len(pictures), time.monotonic() - started))
        except BaseException as error:  # whatever it is: somebody waits for the future
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for entry in batch:
                self._draw([entry])
            return
        ends = np.cumsum([entry.pictures for entry in batch])
        for entry, own in zip(batch, np.split(pictures, ends[:-1]), strict=True):
            entry.future.set_result(own)

    def _forget(self, future: Future[NDArray[np.uint8]]) -> None:
        """Let a request that was cancelled wait no longer."""
        with self.changed:
            found = [(key, entry) for key, group in self.waiting.items() for entry in group if entry.future is future]
            for key, entry in found:  # none if a batch was about to take it
                self.waiting[key].remove(entry)
                if not self.waiting[key]:
                    del self.waiting[key]
                self.depth -= entry.pictures
                future.set_running_or_notify_cancel()  # tells `concurrent.futures.wait`, which nobody else does
                self.changed.notify_all()


def _done(queue: weakref.ref[BatchingQueue], future: Future[NDArray[np.uint8]]) -> None:
    """A future is done; it must hold no queue, or the two would keep pictures and weights in a circle."""
    if future.cancelled() and (found := queue()) is not None:
        found._forget(future)
