"""Pictures as one PNG, row by row; the only file of the runtime that needs Pillow.

Letters: N pictures, H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHORTEST_SIDE = 56  # pixels of a picture on the sheet, at least: an 8x8 digit is enlarged seven times
GAP = 4
FRAME = (136, 142, 152)


def save_grid(images: NDArray[np.uint8], path: Path, columns: int = 10) -> None:
    """Write pictures (N, H, W, C) as one PNG, row by row, each pixel enlarged to a square."""
    try:
        panel(images, columns).save(path, format="PNG")
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say of which file
        raise


def panel(images: NDArray[np.uint8], columns: int) -> Image.Image:
    """Pictures (N, H, W, C) row by row in a grey frame, so that white edges show, enlarged by nearest neighbour."""
    count, height, width, channels = images.shape
    scale = max(1, -(-SHORTEST_SIDE // min(height, width)))
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    if channels == 1:
        large = large.repeat(3, axis=3)
    down, across = GAP + height * scale, GAP + width * scale
    columns = min(columns, count)
    sheet = np.full((GAP + down * -(-count // columns), GAP + across * columns, 3), FRAME, dtype=np.uint8)
    for i, image in enumerate(large):
        top, left = GAP + down * (i // columns), GAP + across * (i % columns)
        sheet[top : top + height * scale, left : left + width * scale] = image
    return Image.fromarray(sheet)
