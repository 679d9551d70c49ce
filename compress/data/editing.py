"""What stays of a given picture while the rest is drawn anew, tokens and pixels: inpainting, completion.

Letters: N pictures, H x W pixels, C colour channels, T tokens of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError
from compress.data.picture_files import fitted, open_picture
from compress.data.reading import AS_USUAL, Reading, Tally
from compress.models.candidate import Candidate
from export.runtime.drawing import Known
from export.runtime.engine import EngineError
from export.runtime.shape import Shape

BLACK = "#000000"
REDRAWN = 128  # grey level of a mask from which on a pixel is drawn anew


@dataclass(frozen=True)
class Edit:
    """A given picture (H, W, C) of which a part stays: its tokens, and how much of each pixel (H, W), from 0 to 1.

    `share` is none where what stays has no place in the picture, as the coarse scales of a next-scale model.
    """

    known: Known
    original: NDArray[np.uint8]
    share: NDArray[np.float64] | None

    def paste(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Drawn pictures (N, H, W, C) with the pixels that stay, byte for byte, and a soft border around them."""
        if self.share is None:
            return drawn
        share = self.share[..., None]
        mixed = np.rint(share * self.original + (1 - share) * drawn).astype(np.uint8)
        return np.where(share == 1, self.original, mixed)


def edit_of(
    drawer: Candidate,
    image: Path,
    mask: Path | None,
    keep: float | None,
    blend: int | None,
    count: int,
    reading: Reading = AS_USUAL,
    tally: Tally | None = None,
) -> Edit:
    """What stays of a picture, for `count` new ones: all that a mask leaves black, or a share in the order of drawing.

    `blend` is the width of the soft border, in pixels of the model's pictures; none: half of a token's side. `reading`
    says how the picture gets the model's aspect, and the mask with it; padding stays.

    Raises:
        InputError: a file is not a picture, the mask has another size, the model cannot encode a picture, or its
            tokens have no place in it.
    """
    height, width, _ = drawer.picture
    opened = open_picture(image, reading=reading, tally=tally)
    pixels = fitted(opened, drawer.picture, reading, tally)
    tokens = tokens_of(drawer, pixels[None], f"--image {image}")
    kept: NDArray[np.bool_] | None
    if mask is not None:
        drawn = open_picture(mask, opaque=True)
        if drawn.size != opened.size:
            raise InputError(
                f"--mask {mask}: {drawn.width} x {drawn.height} pixels; --image {image} is shown in {opened.width} x "
                f"{opened.height}: the mask needs the same size"
            )
        redrawn = fitted(drawn, (height, width, 1), replace(reading, background=BLACK))[..., 0] >= REDRAWN
        where, kept = outside(redrawn, drawer.shape, mask), ~redrawn
    else:
        assert keep is not None
        where = first_share(drawer.shape, keep)
        kept = pixels_of(where, drawer.shape, (height, width))
        if kept is None and blend is not None:
            raise InputError(
                f"--blend {blend}: what --keep keeps of this model has no place in the picture; leave it out"
            )
    if blend is None:
        blend = height // drawer.shape.grid[0] // 2
    share = None if kept is None else feathered(kept, blend)
    return Edit(Known(np.repeat(tokens, count, axis=0), where), pixels, share)


def tokens_of(drawer: Candidate, pixels: NDArray[np.uint8], name: str) -> NDArray[np.int64]:
    """Tokens (N, T) of pictures (N, H, W, C) that a user calls `name`.

    Raises:
        InputError: the model cannot encode pictures.
    """
    try:
        return drawer.encode_images(pixels)
    except (EngineError, ValueError) as error:
        raise InputError(f"{name}: cannot become tokens: {error}") from error


def pixels_of(where: NDArray[np.bool_], shape: Shape, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Pixels (H, W) of tokens (T,), each of which stands for a cell of the grid; none if they do not."""
    if shape.scales or shape.grid[0] == 1:
        return None
    rows, columns = (np.arange(side) * cells // side for side, cells in zip(size, shape.grid, strict=True))
    return where.reshape(shape.grid)[np.ix_(rows, columns)]


def feathered(kept: NDArray[np.bool_], width: int) -> NDArray[np.float64]:
    """How much of each pixel (H, W) stays: all of those that are kept, and less and less beside them, over `width`."""
    from scipy.ndimage import distance_transform_edt

    if not kept.any():
        return np.zeros(kept.shape)
    distance: NDArray[np.float64] = distance_transform_edt(~kept)  # to the nearest that is kept
    return np.clip(1 - distance / (width + 1), 0, 1)


def outside(redrawn: NDArray[np.bool_], shape: Shape, mask: Path) -> NDArray[np.bool_]:
    """Tokens (T,) whose place has no pixel (H, W) that is drawn anew, on every scale.

    Raises:
        InputError: the model's tokens have no place in the picture, or nothing is to be drawn anew.
    """
    if shape.grid[0] == 1:
        raise InputError(f"--mask {mask}: this model's tokens stand for the whole picture, not for places in it")
    if not redrawn.any():
        raise InputError(f"--mask {mask}: is black wherever the picture is read; what is white is drawn anew")
    grids = [(side, side) for side in shape.scales] or [shape.grid]
    return np.concatenate([~touched(redrawn, grid).ravel() for grid in grids])


def touched(pixels: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells of a grid (rows, columns) that hold one of the pixels (H, W); borders may cut a pixel."""
    result = pixels
    for axis, cells in enumerate(grid):
        side = pixels.shape[axis]
        starts, ends = np.arange(cells) * side // cells, -(-np.arange(1, cells + 1) * side // cells)
        parts = [
            result.take(range(start, end), axis=axis).any(axis=axis) for start, end in zip(starts, ends, strict=True)
        ]
        result = np.stack(parts, axis=axis)
    return result


def first_share(shape: Shape, share: float) -> NDArray[np.bool_]:
    """Tokens (T,) that are drawn first: upper rows of causal models, all over of masked ones, the coarse scales."""
    count = round(share * shape.length)
    where = np.zeros(shape.length, dtype=bool)
    where[shape.drawing.drawn_first(shape)[:count]] = True
    return where
