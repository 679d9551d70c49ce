"""Two models draw the same classes with the same seed: both sets of pictures, their times, and how far they differ.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.core.lease import timing
from compress.core.settings import InputError
from compress.data.wish import Drawer, Wish
from compress.measure.pictures.images import captioned
from compress.measure.speed.pinning import pinned
from export.runtime.sheet import panel

ROUNDS = 3  # timed of each model, in turn; their median is said
LONGEST_CAPTION = 32  # letters
BUDGET_S = 30.0  # after which no further round begins


@dataclass(frozen=True)
class Pair:
    """Pictures (N, H, W, C) of a reference and of a candidate, and the seconds of each round of either."""

    names: tuple[str, str]
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]]
    seconds: tuple[tuple[float, ...], tuple[float, ...]]

    @property
    def medians(self) -> tuple[float, float]:
        """Seconds of a round of either."""
        return median(self.seconds[0]), median(self.seconds[1])

    @property
    def psnr(self) -> float | None:
        """The difference of all pictures together, dB (peak signal to noise ratio); none where all are equal."""
        apart = np.subtract(*self.pictures, dtype=np.float64)
        error = float(np.square(apart).mean())
        return 10 * math.log10(255**2 / error) if error else None

    @property
    def difference(self) -> str:
        """The same in words."""
        return "no difference" if self.psnr is None else f"difference {self.psnr:.1f} dB PSNR"

    def times(self) -> tuple[str, str]:
        """What each took, in words."""
        count = len(self.pictures[0])
        first, second = (f"{seconds:.3g} s, {count / seconds:.3g} images/s" for seconds in self.medians)
        return first, second

    def sheet(self, columns: int = 0, rows: int = 0) -> Image.Image:
        """Reference, candidate and difference side by side, white where they are equal; near a square by default."""
        columns = columns or math.ceil(math.sqrt(len(self.pictures[0])))
        apart = np.abs(np.subtract(*self.pictures, dtype=np.int16)).astype(np.uint8)
        captions = [f"{end_of(name)}\n{said}" for name, said in zip(self.names, self.times(), strict=True)]
        sets = [*self.pictures, 255 - apart]
        words = self.difference.removeprefix("difference ")
        captions.append(f"difference\n{words}" if self.psnr is not None else f"{words}\n")
        return captioned([(text, panel(each, columns, rows)) for text, each in zip(captions, sets, strict=True)])

    def lines(self) -> list[str]:
        """What came of it, for a person."""
        first, second = self.medians
        times = [f"{name}: {said}" for name, said in zip(self.names, self.times(), strict=True)]
        rounds = len(self.seconds[0])
        of = f"median of {rounds} rounds in turn" if rounds > 1 else "one round of either"
        return [
            *times,
            f"{self.difference}; {first / second:.3g} times as fast as the reference ({of}, after a warm-up)",
        ]

    def said(self) -> dict[str, Any]:
        """The same for a program."""
        count, (first, second) = len(self.pictures[0]), self.medians
        models = [
            {"model": name, "seconds": each, "rounds": [*rounds], "images_per_second": count / each}
            for name, each, rounds in zip(self.names, self.medians, self.seconds, strict=True)
        ]
        return {"reference": models[0], "candidate": models[1], "speedup": first / second, "psnr_db": self.psnr}


def beside(
    reference: Drawer, candidate: Drawer, wish: Wish, threads: int, say: Callable[[str], None] = lambda text: None
) -> Pair:
    """Let both draw in turn, each once before it is timed, at most `ROUNDS` times.

    The time is that of drawing and decoding all pictures, on `threads` processors, while no other job of this machine
    times.

    Raises:
        InputError: the models do not draw the same kind of picture, or not what is asked for.
    """
    check_pair(reference, candidate)
    both = (reference, candidate)
    if torch_draws(both):
        import torch

        torch.set_num_threads(threads)
    seconds: tuple[list[float], list[float]] = ([], [])
    pictures: list[NDArray[np.uint8]] = []
    with timing(say), pinned(threads):
        for each in both:
            wish.warm_up(each)
        began = time.perf_counter()
        while len(seconds[0]) < ROUNDS and (not pictures or time.perf_counter() - began < BUDGET_S):
            pictures.clear()
            for each, taken in zip(both, seconds, strict=True):
                started = time.perf_counter()
                pictures.append(wish.draw(each))
                taken.append(time.perf_counter() - started)
    found = (pictures[0], pictures[1])
    return Pair((reference.name, candidate.name), found, (tuple(seconds[0]), tuple(seconds[1])))


def end_of(name: str) -> str:
    """A name, or the end of one that is too long for a caption: paths differ there."""
    return name if len(name) <= LONGEST_CAPTION else f"...{name[3 - LONGEST_CAPTION :]}"


def torch_draws(drawers: tuple[Drawer, Drawer]) -> bool:
    """Whether PyTorch draws one of them."""
    return any(not hasattr(each.model, "manifest") for each in drawers)


def check_pair(reference: Drawer, candidate: Drawer) -> None:
    """Refuse two models whose pictures cannot stand side by side.

    Raises:
        InputError: says what differs.
    """
    own, theirs = candidate.model, reference.model
    facts = {
        "pictures": (own.picture, theirs.picture),
        "classes": (own.classes, theirs.classes),
        "names of classes": (own.shape.class_names, theirs.shape.class_names),
        "features of texts": (own.shape.text, theirs.shape.text),
    }
    for what, (mine, other) in facts.items():
        if mine != other and not (what == "names of classes" and not (mine and other)):
            values = "" if what.startswith("names") else f": {mine or 'none'} and {other or 'none'}"
            raise InputError(
                f"--beside {reference.name}: its {what} are not those of {candidate.name}{values}; give a model of the "
                f"same data"
            )
