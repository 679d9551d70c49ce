"""A queue draws requests together, gives each what it gets alone, and refuses, cancels and closes as it says."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest
from fake_engine import Fake
from numpy.typing import NDArray

from export.rewrites.sampling_graph import with_sampling
from export.runtime.batching import Batch, BatchingQueue
from export.runtime.engine import Engine
from export.runtime.errors import EngineError, QueueClosedError, QueueFullError
from export.runtime.serving import Request
from export.targets import fuse

LONG_S = 60.0  # a deadline that no test waits for
KINDS: dict[str, Callable[..., Any]] = {
    "in the graph": lambda exported: with_sampling(fuse(exported("grouped")).model),
    "masked": lambda exported: exported("masked"),
    "text": lambda exported: exported("text"),
    "fixed batch": lambda exported: exported("grouped", fixed_batch=3),
    "int8 dynamic": lambda exported: fuse(exported("int8 dynamic")).model,
    "int4": lambda exported: fuse(exported("int4 group")).model,
}


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def queue_of() -> Iterator[Callable[..., BatchingQueue]]:
    """Queues whose threads end with the test."""
    made: list[BatchingQueue] = []

    def make(engine: Any, **settings: Any) -> BatchingQueue:
        made.append(BatchingQueue(engine, **settings))
        return made[-1]

    yield make
    for queue in made:
        if isinstance(queue.engine, Fake):
            queue.engine.gate.set()
        queue.close(cancel=True)


def busy(fake: Fake, queue: BatchingQueue) -> Future[Any]:
    """Let the one worker draw until the gate opens."""
    future = queue.submit(fake.asked(9))
    assert fake.begun.acquire(timeout=10)
    return future


def features_of(engine: Engine, count: int) -> NDArray[np.float32] | None:
    text = engine.shape.text
    noise = np.random.default_rng(5)
    return None if text is None else noise.normal(size=(count, text.length, text.width)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_together_is_what_is_drawn_alone(kind: str, exported, engine_of, queue_of) -> None:
    engine, sizes = engine_of(KINDS[kind](exported)), []
    queue = queue_of(engine, deadline_s=LONG_S, most_batch=8, on_batch=lambda batch: sizes.append(batch.pictures))
    jobs = [([seed % max(engine.classes, 1)] * (1 + seed % 3), seed) for seed in range(12)]
    futures = []
    for labels, seed in jobs:
        given = np.asarray(labels, dtype=np.int64), [seed] * len(labels), {}, features_of(engine, len(labels))
        futures.append(queue.submit(Request.of(engine, *given)))
    queue.close()
    for (labels, seed), future in zip(jobs, futures, strict=True):
        alone = engine.generate(labels, seed, features=features_of(engine, len(labels)))
        assert (future.result(0) == alone).all()
    together = 3 if engine.shape.drawing.most_at_once == 4 else 6
    assert sum(sizes) == 24
    assert max(sizes) >= together


def test_where_logits_depend_on_the_call_each_request_is_drawn_by_itself(queue_of) -> None:
    fake = Fake(depends=True)
    queue = queue_of(fake, deadline_s=LONG_S, most_batch=1)
    fake.gate.set()
    futures = [queue.submit(fake.asked(label, count=2)) for label in range(3)]
    assert [each.result(10)[:, 0, 0, 0].tolist() for each in futures] == [[0, 0], [1, 1], [2, 2]]
    assert fake.labels == [[0, 0], [1, 1], [2, 2]]  # neither mixed nor split


def test_a_full_batch_does_not_wait_for_the_deadline(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=LONG_S, most_batch=3)
    fake.gate.set()
    futures = [queue.submit(fake.asked(label, seed=label + 5)) for label in range(3)]
    assert [each.result(10).ravel().tolist() for each in futures] == [[0, 5], [1, 6], [2, 7]]
    assert fake.labels == [[0, 1, 2]]


def test_a_lone_request_is_drawn_at_the_deadline(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0.05, most_batch=3)
    fake.gate.set()
    started = time.monotonic()
    queue.submit(fake.asked(1)).result(10)
    assert time.monotonic() - started >= 0.05
    assert fake.labels == [[1]]


def test_requests_that_are_sampled_otherwise_are_drawn_apart(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0)
    first = busy(fake, queue)
    futures = [queue.submit(fake.asked(label, temperature=0.5 if label % 2 else 1.0)) for label in range(4)]
    fake.gate.set()
    wait([first, *futures], 10)
    assert [(labels, sampler.temperature) for labels, sampler in fake.drawn[1:]] == [([0, 2], 1.0), ([1, 3], 0.5)]


def test_the_oldest_go_first_and_none_is_split(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0, most_batch=4)
    futures = [busy(fake, queue)]
    futures += [queue.submit(fake.asked(label, count=count)) for label, count in enumerate((2, 3, 1, 6))]
    fake.gate.set()
    wait(futures, 10)
    assert fake.labels[1:] == [[0, 0], [1, 1, 1, 2], [3, 3, 3, 3], [3, 3]]  # the last asks for more than a batch


def test_a_future_that_was_cancelled_is_never_drawn_and_frees_its_place(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0, capacity=2)
    first = busy(fake, queue)
    waiting = [queue.submit(fake.asked(label)) for label in (1, 2)]
    assert waiting[0].cancel()
    assert queue.depth == 1
    waiting.append(queue.submit(fake.asked(3)))
    assert not first.cancel()  # it is being drawn
    fake.gate.set()
    assert [each.result(10)[0, 0, 0, 0] for each in (first, *waiting[1:])] == [9, 2, 3]
    assert fake.labels == [[9], [2, 3]]
    with pytest.raises(CancelledError):
        waiting[0].result(0)


def test_a_full_queue_refuses_at_once(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0, capacity=3)
    busy(fake, queue)
    queue.submit(fake.asked(1, count=2))
    with pytest.raises(QueueFullError) as error:
        queue.submit(fake.asked(2, count=2))
    assert str(error.value) == "the queue is full: 2 of at most 3 pictures wait; try again later"
    queue.submit(fake.asked(3))
    assert queue.depth == 3


def test_what_may_never_wait_is_no_full_queue(fake, queue_of) -> None:
    with pytest.raises(ValueError, match="4 pictures: at most 3 may wait; ask for fewer at a time"):
        queue_of(fake, capacity=3).submit(fake.asked(1, count=4))


def test_close_waits_for_all_that_was_accepted(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=LONG_S)
    futures = [queue.submit(fake.asked(label)) for label in range(3)]
    fake.gate.set()
    queue.close()
    assert all(each.done() for each in futures)
    assert fake.labels == [[0, 1, 2]]
    with pytest.raises(QueueClosedError, match="the queue is closed; nothing more is drawn"):
        queue.submit(fake.asked(1))


def test_close_may_cancel_what_waits(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0)
    first, second = busy(fake, queue), queue.submit(fake.asked(1))
    closing = threading.Thread(target=queue.close, kwargs={"cancel": True})
    closing.start()
    wait([second], 10)
    fake.gate.set()
    closing.join(10)
    assert second.cancelled()
    assert (first.done(), first.cancelled()) == (True, False)
    assert fake.labels == [[9]]


def test_a_queue_is_closed_behind_its_block_and_cancels_if_that_failed(fake) -> None:
    fake.gate.set()
    with BatchingQueue(fake, deadline_s=LONG_S) as queue:  # type: ignore[arg-type]
        drawn = queue.submit(fake.asked(1))
    assert (drawn.done(), drawn.cancelled()) == (True, False)
    fake.gate.clear()
    queue = BatchingQueue(fake, deadline_s=LONG_S)  # type: ignore[arg-type]
    waiting = queue.submit(fake.asked(2))
    queue.__exit__(KeyError, KeyError(), None)
    assert waiting.cancelled()


def test_one_that_cannot_be_drawn_spoils_no_other(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=LONG_S, most_batch=3)
    fake.broken = {1}
    fake.gate.set()
    futures = [queue.submit(fake.asked(label)) for label in range(3)]
    assert [futures[index].result(10)[0, 0, 0, 0] for index in (0, 2)] == [0, 2]
    with pytest.raises(EngineError, match="label is broken"):
        futures[1].result(10)


def test_workers_draw_batches_side_by_side(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0, workers=2)
    futures = []
    for label in range(2):
        futures.append(queue.submit(fake.asked(label)))
        assert fake.begun.acquire(timeout=10)  # though the gate is closed
    fake.gate.set()
    wait(futures, 10)
    assert fake.labels == [[0], [1]]


def test_threads_end_when_nothing_waits(fake, queue_of) -> None:
    told: list[Batch] = []
    queue = queue_of(fake, deadline_s=0, on_batch=told.append)
    fake.gate.set()
    for label in range(3):
        queue.submit(fake.asked(label)).result(10)
    with queue.changed:
        assert queue.changed.wait_for(lambda: queue.threads == 0, 10)
    assert [(each.requests, each.pictures) for each in told] == [(1, 1)] * 3
    assert all(each.seconds >= 0 for each in told)


def test_many_threads_submit_and_cancel_at_once(fake, queue_of) -> None:
    queue = queue_of(fake, deadline_s=0.001, most_batch=8, workers=2, capacity=10_000)
    fake.gate.set()
    kept: list[tuple[int, Future[Any]]] = []

    def ask(thread: int) -> None:
        for number in range(50):
            future = queue.submit(fake.asked(thread, seed=number))
            if number % 5 or not future.cancel():
                kept.append((number, future))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    queue.close()
    assert all(future.result(0)[0, 0, 1, 0] == number for number, future in kept)
    assert sum(map(len, fake.labels)) == len(kept)
    assert (queue.depth, queue.waiting, queue.threads) == (0, {}, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"most_batch": -1}, "most_batch -1: must be at least 0"),
        ({"deadline_s": -0.5}, "deadline_s -0.5: must be at least 0"),
        ({"capacity": 0}, "capacity 0: must be at least 1"),
        ({"workers": 0}, "workers 0: must be at least 1"),
    ],
)
def test_a_queue_that_could_not_work_is_refused(settings: dict[str, Any], said: str, fake) -> None:
    with pytest.raises(ValueError, match=said):
        BatchingQueue(fake, **settings)


def test_an_engine_takes_one_label_or_several(exported, engine_of) -> None:
    engine = engine_of(exported("grouped"))
    one, more = engine.submit(3, 7), engine.submit([3, 1], 7, temperature=0.5)
    assert (one.result(10) == engine.generate([3], 7)).all()
    assert (more.result(10) == engine.generate([3, 1], 7, temperature=0.5)).all()
    with pytest.raises(ValueError, match="label 11 is not a class"):
        engine.submit(11)


def test_an_engine_whose_queue_is_empty_is_gone_at_once(exported, engine_of) -> None:
    engine = Engine.load(engine_of(exported("grouped")).folder, threads=1)
    engine.submit(1).result(10)
    ended = [each for each in threading.enumerate() if each.name == "image-token-engine"]
    for each in ended:
        each.join(10)
    seen = weakref.ref(engine.graphs.sessions)
    gc.disable()
    try:
        del engine
        assert seen() is None
    finally:
        gc.enable()
