"""A job of drawing: what every one of its pictures depends on, and how they lie in shards.

Letters: N pictures, n given conditions, P x C features of a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, shown
from compress.core.user_files import read_text
from export.runtime.drawing import check_request, classes_of
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

Format = Literal["webdataset", "png"]
SHARD = 1024  # pictures, unless that leaves fewer shards than `FEWEST`
FEWEST = 16  # shards of a small job: work for several workers
LABELS_BYTES = 2**30  # of a file of labels
DIGITS = 9  # of a picture's number, of at most `MOST_PICTURES`
SHARD_DIGITS = 6


@dataclass(frozen=True)
class Conditions:
    """What is drawn: labels (n,), and features (n, P, C) of texts; picture i has those of i modulo n."""

    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None = None

    def of(self, first: int, count: int) -> Conditions:
        """Those of so many pictures."""
        rows = np.arange(first, first + count) % len(self.labels)
        return Conditions(self.labels[rows], None if self.features is None else self.features[rows])

    @classmethod
    def given(cls, shape: Shape, labels: NDArray[np.int64] | None, features: NDArray[np.float32] | None) -> Conditions:
        """What a model of this shape draws of labels (n,), or of features (n, P, C).

        Raises:
            ValueError: it takes something else, or a label is not a class.
        """
        if shape.text is not None and (features is None or labels is not None):
            raise ValueError("this model draws texts: give --features FILE.npy, and no labels")
        if shape.text is None and features is not None:
            raise ValueError("--features: this model draws no texts; leave it out")
        if shape.text is None and shape.classes and labels is None:
            raise ValueError("--labels-file: needed, or --labels; this model draws classes")
        if shape.classes == 0 and labels is not None:
            raise ValueError("--labels: this model knows no classes; give --count alone")
        count = 1 if features is None else len(features)
        found = cls(np.zeros(count, dtype=np.int64) if labels is None else classes_of(labels, shape), features)
        check_request(found.labels, shape, features, None)
        return found

    @property
    def sha256(self) -> str:
        """Their hash."""
        content = hashlib.sha256(self.labels.tobytes())
        if self.features is not None:
            content.update(f"{self.features.shape}".encode() + np.ascontiguousarray(self.features).tobytes())
        return content.hexdigest()


@dataclass(frozen=True)
class Job:
    """What pictures of a folder depend on; stored in it as job.json, in the order in which differences are said."""

    engine: str  # SHA-256 of its manifest, which has those of its files
    seed: int
    count: int  # pictures
    conditions: str  # SHA-256 of labels and features
    sampler: Sampler
    format: Format
    shard: int  # pictures of one
    batch: int  # pictures that are drawn at once, and round each other in some engines
    threads: int  # of a drawing
    device: str  # and its options

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.count // self.shard)

    def pictures(self, shard: int) -> range:
        """The numbers of the pictures in a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.count))

    def name(self, shard: int) -> str:
        """What a shard is called: a file, or a folder."""
        return f"shard-{shard:0{SHARD_DIGITS}}" + (".tar" if self.format == "webdataset" else "")


def shard_size(asked: int, batch: int, count: int) -> int:
    """Pictures of a shard, 0 for the usual number: whole batches, so that no picture is drawn beside others than usual.

    Raises:
        InputError: those that are asked for are no whole batches.
    """
    if asked % batch:
        raise InputError(
            f"--shard-size {asked}: is no multiple of the {batch} pictures that are drawn at once; "
            f"{asked // batch * batch or batch} is one"
        )
    usual = max(1, min(SHARD // batch, -(-count // (FEWEST * batch))))
    return asked or usual * batch


def picture_name(number: int) -> str:
    """What a picture is called, without the ending."""
    return f"{number:0{DIGITS}}"


def read_labels(path: Path) -> NDArray[np.int64]:
    """Labels (n,) from a text file: whole numbers on lines of their own, or several behind commas.

    Raises:
        InputError: it cannot be read, holds none, or something else; the line is named.
    """
    labels = np.fromiter(numbers_of(path), dtype=np.int64)
    if not len(labels):
        raise InputError(f"--labels-file: {path}: holds no labels; write one on each line")
    return labels


def numbers_of(path: Path) -> Iterator[int]:
    """The numbers in a file."""
    for number, line in enumerate(read_text(path, LABELS_BYTES).splitlines(), 1):
        for word in filter(None, (part.strip() for part in line.split(","))):
            if not (word.isascii() and word.isdecimal() and len(word) <= DIGITS):
                raise InputError(f"--labels-file: {path}:{number}: {shown(word)} is not a class; write a whole number")
            yield int(word)
