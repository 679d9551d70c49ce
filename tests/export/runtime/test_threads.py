"""Threads that share an engine draw what each would draw alone, in memory that does not grow."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.rewrites.hoist import hoist
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.engine import Engine, EngineError
from export.runtime.lending import KEPT_LOOPS, KEPT_ROWS
from export.runtime.manifest import GENERATE
from export.targets import fuse

THREADS = 8
Job = tuple[int, float, int]  # pictures, guidance, seed
SIZES, GUIDANCE = (1, 2, 3, 5, 8, 13, 21), (1.0, 1.5, 3.0)
JOBS: list[Job] = [(size, scale, seed) for seed, size in enumerate(SIZES) for scale in GUIDANCE]
KINDS: dict[str, Callable[..., Any]] = {
    "growing": lambda exported: exported("grouped"),
    "shared": lambda exported: fuse(exported("grouped")).model,
    "static": lambda exported: exported("grouped", "tensorrt"),
    "in the graph": lambda exported: with_sampling(fuse(exported("grouped")).model),
    "hoisted": lambda exported: hoist(exported("lead")).model,
    "text": lambda exported: exported("text"),
    "static text": lambda exported: exported("text", "tensorrt"),
    "static next-scale": lambda exported: hoist(exported("next-scale", "tensorrt")).model,
    "masked": lambda exported: exported("masked"),
    "masked in the graph": lambda exported: with_sampling(exported("masked")),
    "next-scale": lambda exported: exported("next-scale"),
    "fixed batch": lambda exported: exported("grouped", fixed_batch=3),
}


def features_of(engine: Any, count: int) -> NDArray[np.float32] | None:
    """Features of texts, where the model draws texts."""
    text = engine.shape.text
    noise = np.random.default_rng(5)
    return None if text is None else noise.normal(size=(count, text.length, text.width)).astype(np.float32)


def draw(engine: Any, job: Job) -> NDArray[np.uint8]:
    """The pictures of a job, by an engine or by a model in PyTorch."""
    count, scale, seed = job
    labels, features = np.arange(count) % max(engine.classes, 1), features_of(engine, count)
    sampler = engine.sampler.changed(cfg_scale=scale, steps=4 if engine.shape.order == "masked" else None)
    return engine.decode_images(engine.draw_tokens(labels, seed, sampler, features))


def in_threads(work: Callable[[int], Any], calls: int) -> list[Any]:
    """What `work` gives for every number of a call: eight threads that begin together, each with every eighth."""
    found: list[Any] = [None] * calls
    together = threading.Barrier(THREADS)

    def run(first: int) -> None:
        together.wait()
        for number in range(first, calls, THREADS):
            try:
                found[number] = work(number)
            except Exception as error:
                found[number] = error

    threads = [threading.Thread(target=run, args=(first,)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def same(found: Sequence[Any], alone: Sequence[NDArray[Any]]) -> None:
    """Every call gave what it gives alone; nothing failed."""
    assert [each for each in found if not isinstance(each, np.ndarray)] == []
    wrong = [number for number, each in enumerate(found) if not np.array_equal(each, alone[number % len(alone)])]
    assert wrong == []


def resident_mib() -> float:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_draw_the_pictures_that_one_draws(kind, exported, engine_of) -> None:
    engine = engine_of(KINDS[kind](exported))
    alone = [draw(engine, job) for job in JOBS]
    same(in_threads(lambda number: draw(engine, JOBS[number % len(JOBS)]), 2 * len(JOBS)), alone)


def test_eight_threads_draw_the_pictures_that_pytorch_draws_in_one(model_of) -> None:
    model = model_of("masked")
    alone = [draw(model, job) for job in JOBS[:9]]
    same(in_threads(lambda number: draw(model, JOBS[number % 9]), 18), alone)


def test_2000_pictures_of_short_lived_threads_leave_the_memory_as_it_is(exported, engine_of) -> None:
    engine = engine_of(KINDS["in the graph"](exported))
    made: list[weakref.ref[Any]] = []
    make = engine.lending.make

    def watched(rows: int) -> Any:
        loop = make(rows)
        made.append(weakref.ref(loop))
        return loop

    engine.lending.make = watched
    alone = [draw(engine, job) for job in JOBS]
    pictures, held = 0, []
    while pictures < 2000:
        same(in_threads(lambda number: draw(engine, JOBS[number % len(JOBS)]), 2 * len(JOBS)), alone)
        pictures += 2 * sum(count for count, _, _ in JOBS)
        assert sum(each() is not None for each in made) == len(engine.lending.idle) <= KEPT_LOOPS
        assert engine.lending.rows <= KEPT_ROWS
        if sys.platform == "linux":
            held.append(resident_mib())
    assert not held or held[-1] < held[0] + 16


def test_threads_share_the_single_file_and_the_image_encoder(exported, engine_of) -> None:
    model = exported("next-scale")
    files = {**model.manifest.files, "generate": GENERATE}
    model = replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files))
    engine, other = engine_of(model), engine_of(model)
    labels = np.arange(3)

    def draw_and_encode(number: int) -> NDArray[np.int64]:
        tokens, images = engine.draw_in_one(labels, number % 4)
        return np.concatenate([tokens, engine.encode_images(images)])

    alone = []
    for seed in range(4):
        tokens, images = other.draw_in_one(labels, seed)
        alone.append(np.concatenate([tokens, other.encode_images(images)]))
    same(in_threads(draw_and_encode, 24), alone)
    assert sorted(engine.graphs._opened) == ["generate", "image_decoder", "image_encoder"]


def test_threads_score_and_draw_at_once(exported, engine_of, inputs) -> None:
    engine = engine_of(KINDS["in the graph"](exported))
    work = [
        lambda: engine.score(inputs),
        lambda: engine.score_stepwise(inputs),
        lambda: engine.caches(inputs)["1.key"],
        lambda: draw(engine, JOBS[7]),
    ]
    alone = [each() for each in work]
    same(in_threads(lambda number: work[number % len(work)](), 32), alone)


def test_a_drawing_may_begin_in_the_middle_of_another(exported, engine_of) -> None:
    engine = engine_of(KINDS["shared"](exported))
    labels, within = np.arange(3), []
    wanted = engine.draw_tokens(labels, 1)
    found = engine.draw_tokens(labels, 1, on_step=lambda: within.append(engine.draw_tokens(labels, 1)))
    assert all((each == wanted).all() for each in (found, *within))
    assert len(within) == 16


def test_a_drawing_that_was_interrupted_leaves_nothing_to_the_next_one(exported, engine_of) -> None:
    engine = engine_of(KINDS["growing"](exported))
    labels = np.arange(3)
    wanted = engine.draw_tokens(labels, 1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.draw_tokens(labels, 2, on_step=interrupt)
    assert engine.lending.idle == []
    assert (engine.draw_tokens(labels, 1) == wanted).all()


def test_an_engine_that_nobody_holds_is_gone_at_once(exported, engine_of) -> None:
    folder = engine_of(exported("grouped")).folder
    engine = Engine.load(folder, threads=1)
    engine.generate([1])
    seen = weakref.ref(engine.graphs.sessions)
    gc.disable()
    try:
        del engine
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_that_was_forked_off_is_told_to_load_its_own_engine(exported, engine_of, monkeypatch) -> None:
    own = engine_of(exported("grouped"))
    engine = Engine.load(own.folder, threads=2)
    monkeypatch.setattr(os, "getpid", lambda: engine.process + 1)
    with pytest.raises(EngineError) as error:
        engine.draw_tokens(np.arange(2))
    assert str(error.value) == (
        f"{own.folder}: was loaded by another process, whose threads did not come along when this one was forked off; "
        f"load the engine in each process"
    )
    assert own.draw_tokens(np.arange(2)).shape == (2, 16)  # one thread is the caller's own
