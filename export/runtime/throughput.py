"""Many pictures in batches: how many are drawn at once, and drawing them one batch after the other.

Letters: N pictures, T tokens of a picture, P x C features of a text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from .drawing import Known, check_request, classes_of
from .errors import shown
from .heeded import sampler_of
from .options import Sampling
from .sampling import Sampler, check_whole
from .shape import Shape

MEMINFO = Path("/proc/meminfo")
SHARE = 0.5  # of the free memory that a batch may take
UNKNOWN_FREE = 2**30  # assumed where the system does not tell, 1 GB
COPIES = 3  # of a step's logits: logits, noise, and what becomes of them
HELD = 3  # copies of a finished picture: of its batch, among all, and in the image that is written
LABEL_BYTES = 8
MANY = 10**24  # bytes that nobody has; a float need not hold more


class Drawing(Protocol):
    """What draws in batches: an engine, or a model in PyTorch."""

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""

    @property
    def sampler(self) -> Sampler:
        """How it draws unless told otherwise."""

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take."""

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
        first: int = 0,
    ) -> NDArray[np.int64]:
        """Tokens (N, T); `first` is the number of the first picture among all of this seed."""

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) of tokens (N, T)."""


def batch_size(shape: Shape, sampler: Sampler, cache_bytes: int) -> int:
    """Pictures drawn at once: as many as half of the free memory holds, and not more than can share anything."""
    one = drawing_bytes(shape, sampler, cache_bytes)
    return max(1, min(shape.drawing.most_at_once, int(SHARE * free_bytes()) // one))


def drawing_bytes(shape: Shape, sampler: Sampler, cache_bytes: int) -> int:
    """What a picture takes while it is drawn, beside the weights."""
    positions = shape.drawing.positions_of_call(shape)
    row = cache_bytes + 4 * COPIES * positions * shape.predicted
    if sampler.spares_rows:  # loops of one row and of two hold caches, and one of what catches up
        return 4 * row
    return row * (2 if sampler.guided else 1)


def check_batch(shape: Shape, sampler: Sampler, cache_bytes: int, batch: int) -> None:
    """Refuse to draw more pictures at once than the free memory holds.

    Raises:
        ValueError: so many do not fit.
    """
    one, free = drawing_bytes(shape, sampler, cache_bytes), free_bytes()
    if batch * one > free:
        raise ValueError(
            f"batch {shown(batch)}: so many pictures at once take about {gigabytes(batch * one)} of memory, and "
            f"{gigabytes(free)} are free; at most {max(1, free // one)} fit"
        )


def check_pictures(picture: tuple[int, int, int], count: int) -> None:
    """Refuse to hold more finished pictures (H, W, C) than the free memory does.

    Raises:
        ValueError: so many do not fit.
    """
    one, free = HELD * prod(picture) + LABEL_BYTES, free_bytes()
    if count * one > free:
        raise ValueError(
            f"{shown(count)} pictures take about {gigabytes(count * one)} of memory, and {gigabytes(free)} are free; "
            f"draw at most {free // one} in one call"
        )


def gigabytes(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.3g} GB" if count < MANY else "more than 1e+15 GB"


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    try:
        for line in MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return UNKNOWN_FREE


def draw_pictures(
    drawing: Drawing,
    labels: Sequence[int | str] | NDArray[np.int64],
    seed: int = 0,
    *,
    features: NDArray[np.float32] | None = None,
    known: Known | None = None,
    batch: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
    first: int = 0,
    **sampling: Unpack[Sampling],
) -> NDArray[np.uint8]:
    """New pictures (N, H, W, C) of these classes (N,), and features (N, P, C) of a text, as a caller gives them.

    What is not given of the sampling is the model's own. They are drawn `batch` at a time, 0 for as many as the free
    memory holds; `report` is told how many are done. `first` is the number of the first among all of the seed.

    Raises:
        ValueError: a label is not a class, a setting is out of range, or the pictures do not fit into memory.
    """
    sampler = sampler_of(drawing.shape, drawing.sampler, **sampling)
    classes = classes_of(labels, drawing.shape)
    check_request(classes, drawing.shape, features, known)
    check_pictures(drawing.picture, len(classes))
    made = draw_in_batches(drawing, classes, seed, sampler, features, known, batch, report, first)
    return np.concatenate(list(made))


def draw_in_batches(
    drawing: Drawing,
    labels: NDArray[np.int64],
    seed: int,
    sampler: Sampler,
    features: NDArray[np.float32] | None = None,
    known: Known | None = None,
    batch: int = 0,
    report: Callable[[int, int], None] = lambda done, count: None,
    first: int = 0,
) -> Iterator[NDArray[np.uint8]]:
    """Pictures (n, H, W, C) of each batch as soon as they are drawn, 0 for the size that fits.

    A picture's noise depends on its number among all of the seed, so the size of the batches does not change it; that
    of the first picture is `first`. `report` is told how many are done.

    Raises:
        ValueError: what cannot be drawn, as `drawing.draw` says, or a batch that does not fit into memory.
    """
    check_whole("batch", batch, 0)
    if batch:
        check_batch(drawing.shape, sampler, drawing.cache_bytes, min(batch, len(labels)))
    size = batch or batch_size(drawing.shape, sampler, drawing.cache_bytes)
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        text = None if features is None else features[rows]
        kept = None if known is None else Known(known.tokens[rows], known.where)
        yield drawing.decode_images(drawing.draw_tokens(labels[rows], seed, sampler, text, kept, first=first + start))
        report(min(start + size, len(labels)), len(labels))
