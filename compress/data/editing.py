"""Tokens of a given picture that stay while the rest is drawn anew: inpainting, completion, image to image.

Letters: N pictures, H x W pixels, C colour channels, T tokens of a picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError
from compress.data.picture_files import fitted, open_picture
from compress.models.candidate import Candidate
from export.runtime.drawing import Known
from export.runtime.engine import EngineError
from export.runtime.shape import Shape

REDRAWN = 128  # grey level of a mask from which on a pixel is drawn anew


def known_tokens(drawer: Candidate, image: Path, mask: Path | None, keep: float | None, count: int) -> Known:
    """What stays of a picture, for `count` new ones: all that a mask leaves black, or a share in the order of drawing.

    Raises:
        InputError: a file is not a picture, the mask has another size, the model cannot encode a picture, or its
            tokens have no place in it.
    """
    height, width, _ = drawer.picture
    opened = open_picture(image)
    pixels = fitted(opened, drawer.picture)
    try:
        tokens = drawer.encode_images(pixels[None])
    except (EngineError, ValueError) as error:
        raise InputError(f"--image {image}: cannot become tokens: {error}") from error
    if mask is not None:
        drawn = open_picture(mask, opaque=True)
        if drawn.size != opened.size:
            raise InputError(
                f"--mask {mask}: {drawn.width} x {drawn.height} pixels; --image {image} is shown in {opened.width} x "
                f"{opened.height}: the mask needs the same size"
            )
        where = outside(fitted(drawn, (height, width, 1))[..., 0] >= REDRAWN, drawer.shape, mask)
    else:
        assert keep is not None
        where = first_share(drawer.shape, keep)
    return Known(np.repeat(tokens, count, axis=0), where)


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
