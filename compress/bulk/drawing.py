"""What a worker does: open the engine once, and draw one shard after the other.

Letters: N pictures of a shard, filled up to whole batches; H x W x C pixels.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.bulk.job import Conditions, Job, picture_name
from compress.bulk.shards import Member, packed
from compress.core.settings import InputError
from compress.workers.crew import Say
from export.runtime.engine import Engine
from export.runtime.manifest import FILE, file_hash
from export.runtime.throughput import draw_in_batches


@dataclass(frozen=True)
class Cargo:
    """The files of an engine's folder, for workers that cannot read it where it is."""

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> Cargo:
        """The files of a folder."""
        return cls({path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()})

    def unpack(self, folder: Path) -> None:
        """Write them into a folder."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@dataclass(frozen=True)
class Opening:
    """How an engine is opened: the settings of `Engine.load`."""

    threads: int = 1
    device: str | None = None
    provider_options: Mapping[str, str] | None = None
    require_plan: bool = False

    def open(self, folder: Path) -> Engine:
        """The engine in a folder."""
        return Engine.load(
            folder,
            self.threads,
            device=self.device,
            provider_options=self.provider_options,
            require_plan=self.require_plan,
        )

    @property
    def words(self) -> str:
        """What runs it, in a job."""
        options = [f"{name}={value}" for name, value in sorted((self.provider_options or {}).items())]
        return " ".join([self.device or ("plan" if self.require_plan else "default"), *options])


@dataclass(frozen=True)
class Shard:
    """A task: the pictures of a shard, and the conditions (N,) of these and of those that fill up the last batch."""

    first: int
    count: int
    conditions: Conditions

    @classmethod
    def of(cls, job: Job, conditions: Conditions, number: int) -> Shard:
        """A shard of a job. What fills it up is what would come next, so a longer job has the same pictures."""
        pictures = job.pictures(number)
        rows = -(-len(pictures) // job.batch) * job.batch
        return cls(pictures.start, len(pictures), conditions.of(pictures.start, rows))


@dataclass(frozen=True)
class Drawing:
    """Makes the function that draws shards of a job, inside of a worker."""

    job: Job
    opening: Opening
    source: Path | Cargo

    def __call__(self, say: Say) -> Callable[[Shard], bytes]:
        """Open the engine."""
        if isinstance(self.source, Path):
            engine = self.opened(self.source)
        else:
            with tempfile.TemporaryDirectory(prefix="compress-") as room:
                self.source.unpack(Path(room))
                engine = self.opened(Path(room))
                engine.picture  # noqa: B018  opens what is opened when it is first used, before its file is gone
        return lambda shard: packed(members(self.job, engine, shard))

    def opened(self, folder: Path) -> Engine:
        """The engine in a folder, which must be that of the job.

        Raises:
            InputError: it was exchanged since.
        """
        engine = self.opening.open(folder)
        if file_hash(folder / FILE) != self.job.engine:
            raise InputError(f"{folder}: the engine was exchanged while pictures were drawn; begin again")
        return engine


def members(job: Job, engine: Engine, shard: Shard) -> Iterator[Member]:
    """The files of a shard, in their order."""
    given = shard.conditions
    batches = draw_in_batches(
        engine, given.labels, job.seed, job.sampler, given.features, batch=job.batch, first=shard.first
    )
    numbers = range(shard.first, shard.first + shard.count)
    lines = []
    # What fills up the last batch has no number, and is left out.
    for number, label, picture in zip(numbers, given.labels, chain.from_iterable(batches), strict=False):
        name = picture_name(number)
        facts = {"engine": job.engine, "index": number, "label": int(label), "seed": job.seed}
        if engine.shape.class_names and label != engine.shape.null_class:
            facts["class"] = engine.shape.class_name(int(label))
        if job.format == "webdataset":
            yield Member(f"{name}.json", json.dumps(facts).encode())
        yield Member(f"{name}.png", png(picture))
        lines.append(json.dumps({"file_name": f"{name}.png", **facts}))
    if job.format == "png":
        yield Member("metadata.jsonl", "".join(f"{line}\n" for line in lines).encode())


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, C) as PNG."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, format="PNG")
    return file.getvalue()
