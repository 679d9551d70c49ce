"""A TokenSet: pictures as tokens with their classes, in disjoint train, validation and held-out parts.

Letters: N pictures, T tokens of a picture, P x C features of a text.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration.archives import FileError
from calibration.arrays import FLOATS, TEXTS, WHOLE, Wanted, read_arrays

Part = Literal["train", "validation", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "held_out")
ARRAYS = {
    "tokens": Wanted(WHOLE, (2,)),
    "labels": Wanted(WHOLE, (1,)),
    "parts": Wanted(WHOLE, (1,)),
    "features": Wanted(FLOATS, (3,), needed=False),
    "class_names": Wanted(TEXTS, (1,), needed=False),
}
# What a file's arrays may take: 256 MiB (2 GiB where bytes become int64), and of larger files so many times their size.
# ImageNet at 24 x 24 tokens takes 1.5 GB of a file of 0.7 GB; features of texts hardly shrink at all.
LIMIT_BYTES, EXPANSION = 256 << 20, 16

# The digits split is part of what the shipped model is: the 297 held-out pictures were never trained on, and the 100
# validation pictures only ever stopped a distillation.
DIGITS_HELD_OUT = 297
DIGITS_VALIDATION = 100
DIGITS_SPLIT_SEED = 20_240_607


@dataclass(frozen=True)
class TokenSet:
    """Pictures as tokens (N, T), their classes (N,) and the part each belongs to (N,), an index into PARTS.

    Pictures of texts have features (N, P, C) of an encoder too; their class is 0. `class_names` name the classes from 0
    on, if they have names.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    parts: NDArray[np.int64]
    features: NDArray[np.float32] | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.features is not None and (self.features.ndim != 3 or len(self.features) != len(self.tokens)):
            raise ValueError(f"features {self.features.shape} of {len(self.tokens)} pictures: need (N, P, C)")
        if self.tokens.ndim != 2 or not len(self.tokens) == len(self.labels) == len(self.parts):
            raise ValueError(
                f"tokens {self.tokens.shape}, labels {self.labels.shape}, parts {self.parts.shape}: "
                "need (N, T), (N,) and (N,)"
            )
        if self.class_names and len(self.labels) and (label := int(self.labels.max())) > len(self.class_names):
            raise ValueError(f"labels holds {label}, but there are {len(self.class_names)} class_names")

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, name: Part, count: int | None = None) -> TokenSet:
        """The pictures of one part, the first `count` of them if given.

        Raises:
            ValueError: the part holds fewer than `count` pictures.
        """
        chosen = np.flatnonzero(self.parts == PARTS.index(name))
        if count is not None and count > len(chosen):
            raise ValueError(f"{count} {name} pictures are asked for, but only {len(chosen)} exist")
        return self.take(chosen[:count])

    def take(self, rows: NDArray[np.int64]) -> TokenSet:
        """The pictures at these rows."""
        features = None if self.features is None else self.features[rows]
        return TokenSet(self.tokens[rows], self.labels[rows], self.parts[rows], features, self.class_names)

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        state = hashlib.sha256()
        for array in (self.tokens, self.labels, self.parts):
            state.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<i8").tobytes())
        if self.features is not None:
            state.update(str(self.features.shape).encode() + np.ascontiguousarray(self.features, "<f4").tobytes())
        if self.class_names:
            state.update(json.dumps(self.class_names).encode())
        return state.hexdigest()

    def save(self, path: Path) -> None:
        """Write the set as a compressed npz; tokens in two bytes each where they fit, else in four."""
        small = self.tokens.max(initial=0) <= np.iinfo(np.uint16).max
        tokens = self.tokens.astype(np.uint16 if small else np.uint32)
        arrays: dict[str, Any] = {"tokens": tokens, "labels": self.labels, "parts": self.parts}
        if self.features is not None:
            arrays["features"] = self.features
        if self.class_names:
            arrays["class_names"] = np.array(self.class_names)
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> TokenSet:
        """Read a set, as `save` writes it; whole numbers of any size and byte order are read, and no other kinds.

        Raises:
            FileError: the file is not such a set: an array is missing, damaged or far larger than the file, holds
                other numbers or negative ones, or the arrays' shapes do not belong together.
        """
        size = path.stat().st_size if path.is_file() else 0
        found = read_arrays(path, ARRAYS, max(LIMIT_BYTES, EXPANSION * size))
        for name in ("tokens", "labels", "parts"):
            check_whole(found[name], name, path, len(PARTS) if name == "parts" else None)
        features = None
        if "features" in found:
            with np.errstate(over="ignore"):
                features = found["features"].astype(np.float32)
            if not np.isfinite(features).all():
                raise FileError(f"{path}: features holds a number that float32 does not")
        try:
            tokens, labels, parts = (found[name].astype(np.int64) for name in ("tokens", "labels", "parts"))
            names = tuple(found["class_names"].tolist()) if "class_names" in found else ()
            return cls(tokens, labels, parts, features, names)
        except ValueError as error:
            raise FileError(f"{path}: {error}") from error


def check_whole(array: NDArray[Any], name: str, path: Path, below: int | None) -> None:
    """Refuse negative numbers, and those that are not below a limit.

    Raises:
        FileError: names one, and the picture that has it.
    """
    wrong = array < 0 if below is None else (array < 0) | (array >= below)
    if wrong.any():
        picture = int(np.argwhere(wrong)[0][0])
        allowed = "none below 0 are" if below is None else f"0 to {below - 1} are"
        raise FileError(f"{path}: {name} holds {array[wrong][0]} (picture {picture}); {allowed} allowed")


def split(labels: NDArray[np.int64], validation: int, held_out: int, seed: int) -> NDArray[np.int64]:
    """Parts (N,) of a random split, stratified: each class gives its share to every part.

    Pictures are dealt to the parts class by class in proportion, so part sizes are exact and classes differ by one.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    count = len(labels)
    parts = np.zeros(count, dtype=np.int64)
    held = by_class[(np.arange(held_out) * count) // max(held_out, 1)]
    parts[held] = PARTS.index("held_out")
    rest = by_class[parts[by_class] == PARTS.index("train")]
    parts[rest[(np.arange(validation) * len(rest)) // max(validation, 1)]] = PARTS.index("validation")
    return parts


def digits() -> TokenSet:
    """The UCI handwritten digits that scikit-learn ships: 1,797 pictures of 8x8 tokens in 17 grey levels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int64)
    parts = split(labels, DIGITS_VALIDATION, DIGITS_HELD_OUT, DIGITS_SPLIT_SEED)
    order = np.random.Generator(np.random.Philox(DIGITS_SPLIT_SEED + 1)).permutation(len(labels))
    return TokenSet(data.data.astype(np.int64), labels, parts).take(order)
