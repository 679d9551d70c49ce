"""The noise of a seed: equal wherever it is made, in NumPy or inside a graph, and whatever is drawn beside a picture.

Letters: B pictures.

Every number is the hash of its place: seed, picture, step, what it is for, and its index among those of the step. The
hash is the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), which needs only what ONNX has too:
products and sums modulo 2^64, shifts and exclusive or.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import shown

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: the increment of SplitMix64
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
BITS = 23  # of a number; with a half added it is an exact float32, and neither 0 nor 1
AT_ONCE = 2**16  # numbers hashed together: they stay in the cache

SEEDS = 2**64  # a seed is one word of the hash, so there are no more

Use = Literal["token", "place"]
USES: dict[Use, int] = {"token": 0, "place": 1}


class NoiseSource(Protocol):
    """The noise of some pictures, wherever it is made."""

    @property
    def count(self) -> int:
        """Pictures."""

    def gumbel(self, step: int, shape: tuple[int, ...], use: Use = "token") -> Any:
        """Gumbel noise (B, *shape) of a step: an array, or for tokens what a drawer chooses with."""


@dataclass(frozen=True)
class Noise:
    """The noise of `count` pictures from the one with index `first` on.

    Raises:
        ValueError: the seed is not one of the 2^64.
    """

    seed: int
    count: int
    first: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def gumbel(self, step: int, shape: tuple[int, ...], use: Use = "token") -> NDArray[np.float32]:
        """Gumbel noise (B, *shape) of a step, to choose tokens or places."""
        uniform = self.uniform(step, shape, use)
        for _ in range(2):
            np.log(uniform, out=uniform)
            np.negative(uniform, out=uniform)
        return uniform

    def uniform(self, step: int, shape: tuple[int, ...], use: Use = "token") -> NDArray[np.float32]:
        """Numbers (B, *shape) evenly between 0 and 1, neither of them among these."""
        made = np.empty((self.count, int(np.prod(shape))), dtype=np.float32)
        for row, key in zip(made, self.keys(step, use), strict=True):
            for start in range(0, len(row), AT_ONCE):
                part = row[start : start + AT_ONCE]
                bits = mixed(np.uint64(key) + steps_of(start, len(part)))
                bits >>= np.uint64(64 - BITS)
                part[:] = bits
        made += np.float32(0.5)
        made *= np.float32(2.0**-BITS)
        return made.reshape(self.count, *shape)

    def keys(self, step: int, use: Use) -> NDArray[np.uint64]:
        """What the numbers of each picture (B,) at a step begin with."""
        seeded = mixed(np.array([self.seed], dtype=np.uint64) + np.uint64(GOLDEN))
        pictures = mixed(seeded + steps_of(self.first, self.count))
        return mixed(pictures + steps_of(len(USES) * step + USES[use], 1))


@dataclass(frozen=True)
class NoiseOfEach:
    """The noise of pictures that are drawn together and belong to several seeds."""

    parts: tuple[Noise, ...]

    @property
    def count(self) -> int:
        """Pictures."""
        return sum(part.count for part in self.parts)

    def gumbel(self, step: int, shape: tuple[int, ...], use: Use = "token") -> NDArray[np.float32]:
        """As `Noise.gumbel`, of all pictures (B, *shape)."""
        return np.concatenate([part.gumbel(step, shape, use) for part in self.parts])


def check_seed(seed: int) -> None:
    """Refuse what is no seed; a larger number would draw the pictures of a smaller one.

    Raises:
        ValueError: it is not one of the 2^64.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < SEEDS:
        raise ValueError(f"seed {shown(seed)}: must be a whole number from 0 to {SEEDS - 1}")


def steps_of(start: int, count: int) -> NDArray[np.uint64]:
    """The increments of the numbers from `start` on."""
    return np.arange(start + 1, start + 1 + count, dtype=np.uint64) * np.uint64(GOLDEN)


def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64, in place."""
    for shift, factor in zip(SHIFTS, (*FACTORS, 1), strict=True):
        state ^= state >> np.uint64(shift)
        if factor != 1:
            state *= np.uint64(factor)
    return state
