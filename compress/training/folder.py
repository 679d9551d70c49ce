"""Pictures of a user's folder to train on; a class is the name of a subfolder.

Letters: B batch, N pictures, S side of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.tokens import PARTS, Part, split
from compress.core.settings import InputError
from compress.data.class_labels import numbered, said_by_folders
from compress.data.reading import AS_USUAL, Reading, Tally
from compress.data.tokens import pictures_in, read_picture
from compress.training.augment import AugmentSettings, affine_maps, moved, recoloured
from export.runtime.counted import counted

VALIDATION, HELD_OUT = 0.05, 0.1  # shares that are not trained on
SPLIT_SEED = 0  # parts stay the same, whatever the seed of a training
FEWEST = 10  # pictures, so that no part is empty


@dataclass
class Folder:
    """Squares of S x S pixels, made as `reading` says and scaled; all are kept in memory, 3 S S bytes each."""

    device: torch.device
    folder: Path
    side: int
    reading: Reading = AS_USUAL

    def __post_init__(self) -> None:
        """Read them.

        Raises:
            InputError: there is no folder, a picture cannot be read, or there are too few.
        """
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: there is no such folder of pictures")
        said = said_by_folders(sorted(pictures_in(self.folder)), self.folder)
        if len(said) < FEWEST:
            raise InputError(
                f"{self.folder}: holds {counted(len(said), 'picture')}; at least {FEWEST} are needed to train on"
            )
        self.labels, self.classes = numbered(said, None)
        picture, tally = (self.side, self.side, 3), Tally()
        self.pictures = np.stack([read_picture(each.picture, picture, self.reading, tally) for each in said])
        self.remarks = tuple(tally.words(self.reading, picture))  # what was done to them
        validation, held_out = (max(1, round(share * len(said))) for share in (VALIDATION, HELD_OUT))
        self.parts = split(self.labels, validation, held_out, SPLIT_SEED)
        self.training = np.flatnonzero(self.parts == PARTS.index("train"))

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Random training pictures uint8 (B, S, S, 3), or squares out of them if `side` is less, and classes (B,)."""
        rows = self.training[generator.integers(len(self.training), size=count)]
        corners = generator.integers(self.side - side + 1, size=(count, 2))
        cut = np.stack([
            self.pictures[row, top : top + side, left : left + side]
            for row, (top, left) in zip(rows, corners, strict=True)
        ])  # fmt: skip
        pictures = torch.from_numpy(cut).to(self.device)
        if augment != AugmentSettings():
            maps = affine_maps(count, side, augment, np.ones(count, dtype=bool), generator)
            pixels = recoloured(moved(pictures.permute(0, 3, 1, 2).float() / 255, maps), augment.recolour, generator)
            pictures = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pictures, self.labels[rows]

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The pictures (N, S, S, 3) of a part and their classes (N,); all of them where no count is given."""
        rows = np.flatnonzero(self.parts == PARTS.index(part))[:count]
        return self.pictures[rows], self.labels[rows]
