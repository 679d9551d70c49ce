"""A job of drawing: what every one of its pictures depends on, and how they lie in shards.

Letters: N pictures, n given conditions, P x C features of a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError
from compress.core.user_files import read_text
from export.runtime.drawing import check_request, classes_of
from export.runtime.request import labels_in
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

Format = Literal["webdataset", "png"]
Labels: TypeAlias = "Sequence[int | str] | NDArray[np.int64] | Written"
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
    def given(cls, shape: Shape, labels: Labels | None, features: NDArray[np.float32] | None) -> Conditions:
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
        if labels is None:
            classes = np.zeros(count, dtype=np.int64)
        else:
            classes = labels.classes(shape) if isinstance(labels, Written) else classes_of(labels, shape)
        found = cls(classes, features)
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


@dataclass(frozen=True)
class Written:
    """Classes as a user wrote them, by number or name: the text of an option, or of a file with one on each line."""

    text: str
    file: Path | None = None

    @classmethod
    def of_file(cls, path: Path) -> Written:
        """The text of a file, or of a pipe.

        Raises:
            InputError: it cannot be read, or is empty.
        """
        text = read_text(path, LABELS_BYTES)
        if not text.strip(" \t\r\n,"):
            raise InputError(f"--labels-file: {path}: holds no labels; write one on each line")
        return cls(text, path)

    def classes(self, shape: Shape) -> NDArray[np.int64]:
        """The classes (n,) of a model.

        Raises:
            ValueError: one is none of its classes; the line of a file is named.
        """
        if self.file is None:
            return labelled("--labels", self.text, shape)
        known: dict[str, list[int]] = {}  # files repeat their lines
        for number, line in enumerate(self.text.splitlines(), 1):
            if line not in known:
                whole = line.strip()
                asked = whole if whole in shape.class_names else whole.strip(",")
                place = f"--labels-file: {self.file}:{number}"
                known[line] = labelled(place, asked, shape).tolist() if asked else []
        return np.fromiter((each for line in self.text.splitlines() for each in known[line]), dtype=np.int64)


def labelled(place: str, text: str, shape: Shape) -> NDArray[np.int64]:
    """The classes of a list.

    Raises:
        ValueError: one is none of the model's; the place is named.
    """
    try:
        return classes_of(labels_in(text, shape), shape)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
