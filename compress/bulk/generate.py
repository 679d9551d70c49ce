"""Draw all shards of a job that a folder does not hold yet, with the workers of a place.

Letters: n conditions, P x C features of a text.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.bulk.drawing import Cargo, Drawing, Opening, Shard
from compress.bulk.folder import claimed
from compress.bulk.job import Conditions, Format, Job, Labels, shard_size
from compress.bulk.shards import publish
from compress.core.listener import Listener
from compress.core.settings import InputError
from compress.core.store import errors_said
from compress.workers import place as places
from compress.workers.crew import Task
from compress.workers.pool import mapped
from export.runtime.counted import counted
from export.runtime.errors import EngineError
from export.runtime.heeded import sampler_of
from export.runtime.manifest import FILE, file_hash
from export.runtime.noise import check_seed
from export.runtime.options import Sampling
from export.runtime.throughput import check_batch

NAMED = 3  # shards that failed are named in a message at most


@dataclass(frozen=True)
class Wish:
    """Which pictures are drawn, of labels (n,), numbers or names, or of features (n, P, C), and their layout.

    0 is the usual number.
    """

    labels: Labels | None = None
    features: NDArray[np.float32] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    count: int = 0
    format: Format = "webdataset"
    shard: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Drawn:
    """What a folder holds now, and what was made of it just now."""

    job: Job
    made: int  # pictures
    seconds: float

    @property
    def per_second(self) -> float:
        """Pictures that were made in a second."""
        return self.made / self.seconds if self.made else 0.0


def draw_shards(
    folder: Path,
    output: Path,
    wish: Wish,
    place: places.Place,
    opening: Opening,
    listener: Listener,
) -> Drawn:
    """Draw pictures with the engine in a folder into shards; those that `output` holds stay.

    Raises:
        InputError: the engine or the output folder is wrong, something cannot be drawn, or a shard failed twice: then
            all others were made.
    """
    if not place.is_local and (opening.device not in (None, "cpu") or opening.require_plan):
        raise InputError("--device: workers of a cluster draw on processors; leave it out, or use --on local:N")
    job, conditions = planned(folder, wish, opening)
    with claimed(output, job):
        names = {job.name(number): number for number in range(job.shards)}
        missing = [name for name in names if not (output / name).exists()]
        tasks = [Task(name, Shard.of(job, conditions, names[name])) for name in missing]
        source = folder.absolute() if place.is_local else Cargo.of(folder)
        progress = Progress(job, sum(len(job.pictures(names[name])) for name in missing))
        faults = {}
        with (
            listener.work(f"draw with {folder}") as report,
            places.opened(place, Drawing(job, opening, source), opening.threads) as crew,
        ):
            report(*progress.now())
            for outcome in mapped(crew, tasks):
                if outcome.fault:
                    faults[outcome.task.name] = outcome.fault
                    continue
                with errors_said(output):
                    publish(outcome.value, output / outcome.task.name)
                progress.made += len(job.pictures(names[outcome.task.name]))
                report(*progress.now())
    if faults:
        raise InputError(set_aside(output, job, faults))
    return Drawn(job, progress.made, progress.seconds)


def planned(folder: Path, wish: Wish, opening: Opening) -> tuple[Job, Conditions]:
    """The job that is wished for.

    Raises:
        InputError: the engine cannot be opened, or cannot draw this.
    """
    try:
        engine = opening.open(folder)
        shape, sampler = engine.shape, sampler_of(engine.shape, engine.sampler, **wish.sampling)
        check_seed(wish.seed)
        conditions = Conditions.given(shape, wish.labels, wish.features)
        batch = wish.batch or shape.drawing.most_at_once  # never by the memory that is free: pictures depend on it
        check_batch(shape, sampler, engine.cache_bytes, batch)
    except (EngineError, ValueError) as error:
        raise InputError(str(error)) from error
    count = wish.count or len(conditions.labels)
    job = Job(
        engine=file_hash(folder / FILE),
        seed=wish.seed,
        count=count,
        conditions=conditions.sha256,
        sampler=sampler,
        format=wish.format,
        shard=shard_size(wish.shard, batch, count),
        batch=batch,
        threads=opening.threads,
        device=opening.words,
    )
    return job, conditions


class Progress:
    """How far a job is, how fast, and how long it still takes."""

    def __init__(self, job: Job, missing: int) -> None:
        self.job, self.missing, self.made, self.began = job, missing, 0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def now(self) -> tuple[int, int, dict[str, float]]:
        """Pictures that are there, all pictures, and what is said beside them."""
        rate = self.made / max(self.seconds, 1e-9)
        there = self.job.count - self.missing + self.made
        left = {"minutes left": (self.missing - self.made) / rate / 60} if rate else {}
        return there, self.job.count, {"pictures/s": rate} | left if rate else {}


def set_aside(output: Path, job: Job, faults: dict[str, str]) -> str:
    """What is said of shards that failed twice."""
    named = "; ".join(f"{name} ({fault})" for name, fault in sorted(faults.items())[:NAMED])
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return (
        f"{output}: {len(faults)} of {counted(job.shards, 'shard')} failed twice and were set aside: {named}{more}; "
        f"all others are finished, the same command tries these again"
    )
