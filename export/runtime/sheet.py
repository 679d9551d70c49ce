"""Pictures as one sheet, row by row.

Letters: N pictures, H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import shown
from .picture_files import save_image

SHORTEST_SIDE = 56  # pixels of a picture on the sheet, at least: an 8x8 digit is enlarged seven times
GAP = 4
FRAME = (136, 142, 152)
COLUMNS = 10
GRID = re.compile(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?")


@dataclass(frozen=True)
class Grid:
    """How many pictures are beside each other, and how many below each other: 0 for as many as there are."""

    columns: int = COLUMNS
    rows: int = 0

    @classmethod
    def of(cls, text: str) -> Grid:
        """A grid like ``4x3``, or its columns alone.

        Raises:
            ValueError: the text is none.
        """
        found = GRID.fullmatch(text.strip().lower())
        if found is None:
            raise ValueError(f"--grid {shown(text)}: is no grid like 4x3 (columns x rows), or 4 (columns)")
        return cls(int(found[1]), int(found[2] or 0))

    def check(self, count: int) -> None:
        """Refuse more pictures than there is room for.

        Raises:
            ValueError: says how much there is.
        """
        if self.rows and count > self.columns * self.rows:
            raise ValueError(
                f"--grid {self.columns}x{self.rows}: has room for {self.columns * self.rows} of {count} pictures; "
                f"--grid {self.columns} takes as many rows as are needed"
            )


def save_grid(
    images: NDArray[np.uint8], path: Path, columns: int = COLUMNS, rows: int = 0, said: dict[str, Any] | None = None
) -> None:
    """Write pictures (N, H, W, C) as one file, row by row, each pixel enlarged to a square, and what is `said` of them.

    The format is that of the file's name, PNG by default.
    """
    save_image(panel(images, columns, rows), path, said)


def panel(images: NDArray[np.uint8], columns: int, rows: int = 0) -> Image.Image:
    """Pictures (N, H, W, C) row by row in a grey frame, so that white edges show, enlarged by nearest neighbour.

    With `rows` the sheet is of that size however many pictures there are.
    """
    count, height, width, channels = images.shape
    scale = max(1, -(-SHORTEST_SIDE // min(height, width)))
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    if channels == 1:
        large = large.repeat(3, axis=3)
    down, across = GAP + height * scale, GAP + width * scale
    columns = columns if rows else min(columns, count)
    rows = rows or -(-count // columns)
    sheet = np.full((GAP + down * rows, GAP + across * columns, 3), FRAME, dtype=np.uint8)
    for i, image in enumerate(large):
        top, left = GAP + down * (i // columns), GAP + across * (i % columns)
        sheet[top : top + height * scale, left : left + width * scale] = image
    return Image.fromarray(sheet)
