"""Crops of the colour photographs that scikit-image and scikit-learn ship; the class of a crop is its photograph.

Each photograph is cut into disjoint rectangles: a strip along one edge, whose halves are held out and for validation,
and the rest for training. A crop is cut out of its own rectangle before anything else happens to it, so no pixel of
another part can reach it.

Letters: N crops, S side of a crop in pixels, h x w a rectangle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calibration.tokens import Part

CROP = 128
# A strip must hold a crop with room to move; a quarter of the extent is what the larger photographs can spare.
STRIP = 160
STRIP_SHARE = 0.25
# Steps of the grid of held-out and validation crops: they overlap, and neighbours are not independent pictures.
STRIDE = 16
# The size of a training crop in the photograph, against the size it is returned in: log-uniform between these.
SCALES = (0.8, 1.25)


@dataclass(frozen=True)
class Photo:
    """One photograph: the package and file that hold it, the edge its strip lies along, and how much it is reduced.

    The edge is the one whose strip shows some of what the photograph is of.
    """

    name: str
    package: Literal["skimage", "sklearn"]
    path: str
    strip: Literal["left", "right", "bottom"]
    reduce: int = 1


# The right picture of the motorcycle's stereo pair is left out: it would show the left one's held-out region. The two
# large photographs are halved, or their crops would show nothing but smooth ground.
PHOTOS: tuple[Photo, ...] = (
    Photo("astronaut", "skimage", "data/astronaut.png", "right"),
    Photo("chelsea", "skimage", "data/chelsea.png", "right"),
    Photo("coffee", "skimage", "data/coffee.png", "left"),
    Photo("hubble", "skimage", "data/hubble_deep_field.jpg", "right", reduce=2),
    Photo("tissue", "skimage", "data/ihc.png", "right"),
    Photo("motorcycle", "skimage", "data/motorcycle_left.png", "right"),
    Photo("retina", "skimage", "data/retina.jpg", "right", reduce=2),
    Photo("rocket", "skimage", "data/rocket.jpg", "right"),
    Photo("china", "sklearn", "datasets/images/china.jpg", "right"),
    Photo("flower", "sklearn", "datasets/images/flower.jpg", "bottom"),
)
CLASSES = tuple(photo.name for photo in PHOTOS)


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: top and left are inside, bottom and right are not."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    def of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The rectangle (h, w, 3) of a picture."""
        return pixels[self.top : self.bottom, self.left : self.right]


@cache
def pixels(photo: Photo) -> NDArray[np.uint8]:
    """A photograph (h, w, 3) as it lies in the installed package, reduced; read-only, for it is kept.

    Raises:
        ValueError: the package does not ship the file.
    """
    file = resources.files(photo.package).joinpath(photo.path)
    if not file.is_file():
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[photo.package]
        raise ValueError(f"photograph {photo.name}: {file} is missing; install the {distribution} of constraints.txt")
    with file.open("rb") as stream, Image.open(stream) as image:
        # Exact means of aligned blocks: a reduced pixel depends on no pixel beyond its own block.
        array = np.asarray(image.convert("RGB").reduce(photo.reduce)).copy()
    array.flags.writeable = False
    return array


def regions(photo: Photo) -> dict[Part, Box]:
    """The disjoint rectangles of a photograph's parts; together they are the whole of it."""
    height, width = pixels(photo).shape[:2]
    if photo.strip == "bottom":
        cut, half = height - max(STRIP, round(STRIP_SHARE * height)), width // 2
        return {
            "train": Box(0, 0, cut, width),
            "held_out": Box(cut, 0, height, half),
            "validation": Box(cut, half, height, width),
        }
    strip, half = max(STRIP, round(STRIP_SHARE * width)), height // 2
    left, right = (0, strip) if photo.strip == "left" else (width - strip, width)
    return {
        "train": Box(0, strip, height, width) if photo.strip == "left" else Box(0, 0, height, left),
        "held_out": Box(0, left, half, right),
        "validation": Box(half, left, height, right),
    }


def training_boxes(count: int, size: int, generator: np.random.Generator) -> Iterator[tuple[int, Box, bool]]:
    """`count` random crops of training regions: the class, the square in its photograph, whether it is mirrored."""
    low, high = np.log(SCALES)
    for label, scale, top, left, flip in zip(
        generator.integers(len(PHOTOS), size=count),
        np.exp(generator.uniform(low, high, size=count)),
        *generator.random((3, count)),
        strict=True,
    ):
        region = regions(PHOTOS[label])["train"]
        side = min(round(size * scale), region.height, region.width)
        row = region.top + int(top * (region.height - side + 1))
        column = region.left + int(left * (region.width - side + 1))
        yield int(label), Box(row, column, row + side, column + side), bool(flip < 0.5)


def training_crops(
    count: int, generator: np.random.Generator, size: int = CROP
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Random crops (N, S, S, 3) of the training regions and their classes (N,): place, size and mirroring vary."""
    crops, labels = np.empty((count, size, size, 3), dtype=np.uint8), np.empty(count, dtype=np.int64)
    for row, (label, box, flip) in enumerate(training_boxes(count, size, generator)):
        crop = box.of(pixels(PHOTOS[label]))
        if box.height != size:
            image = Image.fromarray(np.ascontiguousarray(crop))
            crop = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
        crops[row], labels[row] = crop[:, ::-1] if flip else crop, label
    return crops, labels


def grid_boxes(part: Part) -> list[tuple[int, Box]]:
    """Every crop of a part's fixed grid: the class and the square in its photograph, unscaled."""
    boxes = []
    for label, photo in enumerate(PHOTOS):
        region = regions(photo)[part]
        boxes += [
            (label, Box(top, left, top + CROP, left + CROP))
            for top in range(region.top, region.bottom - CROP + 1, STRIDE)
            for left in range(region.left, region.right - CROP + 1, STRIDE)
        ]
    return boxes


def photo_crops(part: Part, count: int | None = None, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Crops (N, S, S, 3) of one part with their classes (N,); the same arguments give the same crops.

    Training crops are random, any number of them. Those of the other parts are a fixed grid, which `seed` only orders:
    the classes take turns, so that the first `count` are as even as the grid allows.

    Raises:
        ValueError: the part's grid has fewer than `count` crops, or training crops without a count.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    if part == "train":
        if count is None:
            raise ValueError("training crops are random: say how many")
        return training_crops(count, generator)
    boxes = grid_boxes(part)
    if count is not None and count > len(boxes):
        raise ValueError(f"{count} {part} crops are asked for, but the grid has {len(boxes)}")
    turns = np.zeros(len(boxes))
    labels = np.array([label for label, _ in boxes], dtype=np.int64)
    for label in range(len(PHOTOS)):
        own = np.flatnonzero(labels == label)
        turns[own] = generator.permutation(len(own))
    order = np.lexsort((labels, turns))[:count]
    return np.stack([boxes[i][1].of(pixels(PHOTOS[labels[i]])) for i in order]), labels[order]
