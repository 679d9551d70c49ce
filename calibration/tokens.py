"""A TokenSet: pictures as tokens with their classes, in disjoint train, validation and held-out parts.

Letters: N pictures, T tokens of a picture, P x C features of a text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Part = Literal["train", "validation", "held_out"]
PARTS: tuple[Part, ...] = ("train", "validation", "held_out")

# The digits split is part of what the shipped model is: the 297 held-out pictures were never trained on, and the 100
# validation pictures only ever stopped a distillation.
DIGITS_HELD_OUT = 297
DIGITS_VALIDATION = 100
DIGITS_SPLIT_SEED = 20_240_607


@dataclass(frozen=True)
class TokenSet:
    """Pictures as tokens (N, T), their classes (N,) and the part each belongs to (N,), an index into PARTS.

    Pictures of texts have features (N, P, C) of an encoder too; their class is 0.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    parts: NDArray[np.int64]
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.features is not None and (self.features.ndim != 3 or len(self.features) != len(self.tokens)):
            raise ValueError(f"features {self.features.shape} of {len(self.tokens)} pictures: need (N, P, C)")
        if self.tokens.ndim != 2 or not len(self.tokens) == len(self.labels) == len(self.parts):
            raise ValueError(
                f"tokens {self.tokens.shape}, labels {self.labels.shape}, parts {self.parts.shape}: "
                "need (N, T), (N,) and (N,)"
            )

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
        return TokenSet(self.tokens[rows], self.labels[rows], self.parts[rows], features)

    def fingerprint(self) -> str:
        """SHA-256 of the content."""
        state = hashlib.sha256()
        for array in (self.tokens, self.labels, self.parts):
            state.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype="<i8").tobytes())
        if self.features is not None:
            state.update(str(self.features.shape).encode() + np.ascontiguousarray(self.features, "<f4").tobytes())
        return state.hexdigest()

    def save(self, path: Path) -> None:
        """Write the set as a compressed npz."""
        arrays: dict[str, Any] = {"tokens": self.tokens.astype(np.uint16), "labels": self.labels, "parts": self.parts}
        if self.features is not None:
            arrays["features"] = self.features
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> TokenSet:
        """Read a set that `save` wrote; pickled arrays are refused.

        Raises:
            ValueError: the file is not such a set.
        """
        names = ("tokens", "labels", "parts")
        try:
            with np.load(path, allow_pickle=False) as data:
                missing = [name for name in names if name not in data]
                if not missing:
                    features = data["features"].astype(np.float32) if "features" in data else None
                    tokens, labels, parts = (data[name].astype(np.int64) for name in names)
                    return cls(tokens, labels, parts, features)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: not a readable TokenSet ({error})") from error
        raise ValueError(f"{path}: no array {missing[0]!r}; a TokenSet has tokens, labels and parts")


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
