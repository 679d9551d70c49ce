"""Pictures to train on: random ones, varied, and the fixed ones of each part.

Letters: B batch, N pictures, S side of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calibration import emoji, photos
from calibration.tokens import Part
from compress.core.settings import MOST_SIDE, InputError, nearest, setting, shown


@dataclass(frozen=True)
class AugmentSettings:
    """How pictures are varied."""

    shift: float = setting(0.0, doc="largest shift, pixels", low=0, high=MOST_SIDE)
    turn: float = setting(0.0, doc="largest turn, degrees", low=0, high=180)
    scale: float = setting(0.0, doc="largest change of size, as a share", low=0, high=0.9)
    untouched: float = setting(0.0, doc="share of pictures left as they are", low=0, high=1)
    until: float = setting(1.0, doc="share of the steps that augment; the rest see real pictures only", low=0, high=1)
    mirror: float = setting(0.0, doc="share of pictures mirrored, of those that stay what they are", low=0, high=1)
    recolour: float = setting(0.0, doc="share of pictures whose colour channels change places", low=0, high=1)


class PictureSource(Protocol):
    """Where a training has its pictures from."""

    side: int  # of a whole picture, pixels
    classes: tuple[str, ...]

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Random training pictures uint8 (B, S, S, 3) on the source's device, and their classes (B,)."""

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The pictures (N, S, S, 3) of a part and their classes (N,); all of them where no count is given."""


@dataclass
class Photos:
    """Crops of the photographs that scikit-image and scikit-learn ship; each crop is varied as it is cut out."""

    device: torch.device
    side: int = photos.CROP
    classes: tuple[str, ...] = photos.CLASSES

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        crops, labels = photos.training_crops(count, generator, side)
        return torch.from_numpy(crops).to(self.device), labels

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return photos.photo_crops(part, count)


@dataclass
class Emoji:
    """The Noto colour emoji: names come equally often, then their variants, with the class of the name or subgroup."""

    device: torch.device
    side: int = emoji.SIDE
    classes: tuple[str, ...] = field(default_factory=emoji.classes)

    def __post_init__(self) -> None:
        numbers = emoji.chosen("train")
        names = [emoji.glyphs()[number].name for number in numbers]
        self.labels = emoji.labels()[numbers]  # (N, 2): of the subgroup, of the name
        self.variants = [np.flatnonzero(np.array(names) == name) for name in dict.fromkeys(names)]
        self.mirrorable = np.array([emoji.mirrorable(emoji.glyphs()[number]) for number in numbers])
        self.pictures = torch.from_numpy(emoji.pictures()[numbers]).to(self.device)  # (N, 2 S, 2 S, 3)

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        assert side == self.side, "an emoji is not cut"
        variants = [self.variants[number] for number in generator.integers(len(self.variants), size=count)]
        rows = np.array([own[int(at * len(own))] for own, at in zip(variants, generator.random(count), strict=True)])
        labels = self.labels[rows, generator.integers(2, size=count)]
        pictures = self.pictures[torch.from_numpy(rows).to(self.device)].permute(0, 3, 1, 2).float() / 255
        maps = affine_maps(count, side, augment, self.mirrorable[rows], generator)
        pictures = recoloured(moved(pictures, maps), augment.recolour, generator)
        return (functional.avg_pool2d(pictures, 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1), labels

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return emoji.emoji_pictures(part, count)


SOURCES: dict[str, Callable[[torch.device], PictureSource]] = {"photos": Photos, "emoji": Emoji}


def check_augment(pictures: str, augment: AugmentSettings, where: str) -> None:
    """Refuse settings that a source does not read.

    Raises:
        InputError: photographs are given an augmentation.
    """
    if pictures == "photos" and augment != AugmentSettings():
        raise InputError(f"{where}: augment: photographs are varied as they are cut; leave it out")


def open_pictures(name: str, device: torch.device, where: str) -> PictureSource:
    """The pictures called 'photos' or 'emoji'.

    Raises:
        InputError: it is neither, or what it is made of is not installed.
    """
    if name not in SOURCES:
        raise InputError(f"{where}: {shown(name)} are no pictures to train on; {nearest(name, SOURCES)}")
    try:
        return SOURCES[name](device)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def affine_maps(
    count: int,
    side: int,
    augment: AugmentSettings,
    mirrorable: NDArray[np.bool_],
    generator: np.random.Generator,
) -> Tensor:
    """Random maps (B, 2, 3) from places in the new picture to places in the old, as `affine_grid` takes them."""
    turn, scale, right, down = generator.uniform(-1, 1, size=(4, count))
    touched = generator.random(count) >= augment.untouched
    angle, size = np.radians(turn * augment.turn) * touched, 1 + scale * augment.scale * touched
    mirrored = np.where((generator.random(count) < augment.mirror) & mirrorable, -1.0, 1.0)
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    shift = np.stack([right, down]) * touched * augment.shift * 2 / side  # affine_grid's picture goes from -1 to 1
    maps = np.stack([cosine * mirrored, -sine, shift[0], sine * mirrored, cosine, shift[1]], axis=1)
    return torch.from_numpy(maps.reshape(count, 2, 3).astype(np.float32))


def moved(pictures: Tensor, maps: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) from 0 to 1, each moved by its map (B, 2, 3); what comes in from outside is white."""
    grid = functional.affine_grid(maps.to(pictures.device), list(pictures.shape), align_corners=False)
    return 1 - functional.grid_sample(1 - pictures, grid, mode="bilinear", align_corners=False)


def recoloured(pictures: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """Pictures (B, 3, S, S), a share of them with their colour channels in another order."""
    orders = np.tile(np.arange(3), (len(pictures), 1))
    changed = generator.random(len(pictures)) < share
    orders[changed] = generator.permuted(orders[changed], axis=1)
    places = torch.from_numpy(orders).to(pictures.device)[:, :, None, None].expand_as(pictures)
    return pictures.gather(1, places)
