"""Pictures to train on: random ones, varied, and the fixed ones of each part.

Letters: B batch, N pictures, S side of a picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calibration import emoji
from calibration.tokens import Part
from compress.core.settings import InputError, shown
from compress.core.user_files import user_path
from compress.data.reading import AS_USUAL, Reading
from compress.training.augment import AugmentSettings, affine_maps, moved, recoloured
from compress.training.folder import Folder


class PicturesWarning(UserWarning):
    """Pictures are not trained on as they are."""


class PictureSource(Protocol):
    """Where a training has its pictures from."""

    side: int  # of a whole picture, pixels
    classes: tuple[str, ...]  # what they are called; none where they have numbers alone
    remarks: tuple[str, ...]  # what was done to them to make them squares

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Random training pictures uint8 (B, S, S, 3) on the source's device, and their classes (B,)."""

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The pictures (N, S, S, 3) of a part and their classes (N,); all of them where no count is given."""


@dataclass
class Emoji:
    """The Noto colour emoji: names come equally often, then their variants, with the class of the name or subgroup."""

    device: torch.device
    side: int = emoji.SIDE
    classes: tuple[str, ...] = field(default_factory=emoji.classes)
    remarks: tuple[str, ...] = ()

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
        variants = [self.variants[number] for number in generator.integers(len(self.variants), size=count)]
        rows = np.array([own[int(at * len(own))] for own, at in zip(variants, generator.random(count), strict=True)])
        labels = self.labels[rows, generator.integers(2, size=count)]
        pictures = self.pictures[torch.from_numpy(rows).to(self.device)].permute(0, 3, 1, 2).float() / 255
        maps = affine_maps(count, self.side, augment, self.mirrorable[rows], generator)
        pictures = recoloured(moved(pictures, maps), augment.recolour, generator)
        made = (functional.avg_pool2d(pictures, 2) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        if side < self.side:
            corners = generator.integers(self.side - side + 1, size=(count, 2))
            cut = [
                image[top : top + side, left : left + side] for image, (top, left) in zip(made, corners, strict=True)
            ]
            made = torch.stack(cut)
        return made, labels

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return emoji.emoji_pictures(part, count)


SOURCES: dict[str, Callable[[torch.device], PictureSource]] = {"emoji": Emoji}


def say_remarks(source: PictureSource, name: str) -> None:
    """Warn of what was done to the pictures of a source, a line each."""
    for remark in source.remarks:
        warnings.warn(f"{name}: {remark}", PicturesWarning, stacklevel=2)


def open_pictures(
    name: str, device: torch.device, where: str, side: int = 0, reading: Reading = AS_USUAL
) -> PictureSource:
    """The pictures called 'emoji', or those of a folder as squares of `side` pixels, read as it is said.

    Raises:
        InputError: it is neither, or what they are made of is not installed.
    """
    if name not in SOURCES:
        folder = user_path(name, where)
        if not folder.is_dir():
            raise InputError(f"{where}: {shown(name)} is neither a folder of pictures nor 'emoji'")
        if not side:
            raise InputError(f"{where}: pictures of a folder are scaled; give  side, the pixels of one")
        return Folder(device, folder, side, reading)
    if side:
        raise InputError(f"{where}: {name} have a size of their own; leave  side  out")
    if reading != AS_USUAL:
        raise InputError(f"{where}: {name} are square and opaque; leave  reading  out")
    try:
        return SOURCES[name](device)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
