"""Pictures larger than a model's: windows slide over a canvas, and each is drawn with what it holds already.

Letters: N pictures, H x W pixels of a canvas, h x w pixels of a window, C channels, T tokens of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.applications.asked import Report, silent
from compress.core.settings import MOST_SIDE, InputError
from compress.data.editing import Edit, feathered, tokens_of, touched
from compress.data.wish import Drawer, Wish
from compress.models.candidate import Candidate
from export.runtime.drawing import Known
from export.runtime.shape import Shape
from export.runtime.throughput import check_pictures

SEEDS_OF_A_WINDOW = 2**32  # pictures whose noise comes before that of the next window
Side = str  # left, right, top or bottom


@dataclass(frozen=True)
class Canvas:
    """Pictures (N, H, W, C), and which of their pixels (H, W) are done; what is not may hold a guess."""

    pixels: NDArray[np.uint8]
    done: NDArray[np.bool_]


def fill(
    canvas: Canvas,
    model: Candidate,
    wish: Wish,
    overlap: float,
    blend: int,
    stays: NDArray[np.bool_] | None = None,
    report: Report = silent,
) -> int:
    """Draw what is not done of a canvas, in place; how many windows were drawn.

    Neighbouring windows share `overlap` of a side. Tokens whose cells are done stay, and pixels that are done do, byte
    for byte. At their border the drawn pixels begin with the given ones: the difference between the nearest given pixel
    and what was drawn in its place is added, less and less over `blend` pixels. With `stays` (T,) these tokens of each
    window stay too: those of the guess.

    Raises:
        InputError: the canvas is smaller than a window or too large, or the model's tokens have no places in it.
    """
    check(canvas, model)
    height, width, _ = model.picture
    windows = places(canvas.done.shape, model, overlap)
    count, drawn = len(windows), 0
    for number, (top, left) in enumerate(in_turn(windows, canvas, model)):
        part = (slice(top, top + height), slice(left, left + width))
        if not canvas.done[part].all():
            view = canvas.pixels[:, *part]
            view[:] = window(view, canvas.done[part], model, wish, blend, stays, number)
            canvas.done[part] = True
            drawn += 1
        report(number + 1, count)
    return drawn


def window(
    given: NDArray[np.uint8],
    done: NDArray[np.bool_],
    model: Candidate,
    wish: Wish,
    blend: int,
    stays: NDArray[np.bool_] | None,
    number: int,
) -> NDArray[np.uint8]:
    """Pictures (N, h, w, C) of the window with this number, with the pixels that are done."""
    nearest = nearest_of(done)
    read = given if stays is not None else given[:, *nearest]  # without a guess an encoder sees the edge go on
    where = cells(done, model.shape)
    if stays is not None:
        where = where | stays
    edit = Edit(Known(tokens_of(model, read, "picture"), where), given[0], None)
    drawn = wish.draw(Drawer("", model, edit), first=number * SEEDS_OF_A_WINDOW)
    return joined(given, drawn, done, nearest, blend)


def joined(
    given: NDArray[np.uint8],
    drawn: NDArray[np.uint8],
    done: NDArray[np.bool_],
    nearest: tuple[NDArray[np.int64], NDArray[np.int64]],
    width: int,
) -> NDArray[np.uint8]:
    """Drawn pictures (N, h, w, C) without a step in brightness at the border of what is done, which stays."""
    apart = np.subtract(given, drawn, dtype=np.float64)[:, *nearest]
    made = np.rint(drawn + feathered(done, width)[..., None] * apart).clip(0, 255).astype(np.uint8)
    return np.where(done[..., None], given, made)


def nearest_of(done: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column (h, w) of the nearest pixel that is done; of each pixel itself where none is."""
    from scipy.ndimage import distance_transform_edt

    found: NDArray[np.int64] = np.indices(done.shape, dtype=np.int64)
    if done.any():
        found = distance_transform_edt(~done, return_distances=False, return_indices=True)
    return found[0], found[1]


def cells(done: NDArray[np.bool_], shape: Shape) -> NDArray[np.bool_]:
    """Tokens (T,) whose whole cell is done, on every scale."""
    grids = [(side, side) for side in shape.scales] or [shape.grid]
    return np.concatenate([~touched(~done, grid).ravel() for grid in grids])


def places(size: tuple[int, ...], model: Candidate, overlap: float) -> list[tuple[int, int]]:
    """Top and left of every window, row by row, at whole tokens from the canvas's corner and at its other edges."""
    found = []
    for length, side, tokens in zip(size, model.picture[:2], finest(model.shape), strict=True):
        step = min(max(1, round((1 - overlap) * tokens)), max(1, tokens - 1)) * side // tokens
        found.append(sorted({*range(0, length - side + 1, step), length - side}))
    return [(top, left) for top in found[0] for left in found[1]]


def in_turn(windows: list[tuple[int, int]], canvas: Canvas, model: Candidate) -> Iterator[tuple[int, int]]:
    """The windows, those first that hold most of what is done, and of equal ones the upper left.

    Where tokens are drawn one behind the other, windows are too: in the order of rows and columns that tokens have.
    """
    height, width, _ = model.picture
    if model.shape.drawing.sequential:
        sides = free_sides(model.shape)
        down, across = (1 if "bottom" in sides else -1), (1 if "right" in sides else -1)
        yield from sorted(windows, key=lambda each: (down * each[0], across * each[1]))
        return
    waiting = list(windows)
    while waiting:
        shares = [canvas.done[top : top + height, left : left + width].mean() for top, left in waiting]
        yield waiting.pop(int(np.argmax(shares)))


def free_sides(shape: Shape) -> set[Side]:
    """The sides to which a picture can be continued: where tokens are drawn behind their neighbours in the picture."""
    if not shape.drawing.sequential:
        return {"left", "right", "top", "bottom"}
    rank = np.empty(shape.length, dtype=np.int64)
    rank[shape.drawing.drawn_first(shape)] = np.arange(shape.length)
    grid = rank.reshape(shape.grid)
    found = set()
    for axis, (before, behind) in enumerate((("top", "bottom"), ("left", "right"))):
        steps = np.diff(grid, axis=axis)
        found |= {behind} if (steps > 0).all() else {before} if (steps < 0).all() else set()
    return found


def finest(shape: Shape) -> tuple[int, int]:
    """Rows and columns of the tokens that are drawn last."""
    return (shape.scales[-1], shape.scales[-1]) if shape.scales else shape.grid


def cell(model: Candidate) -> tuple[int, int]:
    """Height and width of what a token stands for, in pixels, at least 1."""
    rows, columns = finest(model.shape)
    return max(1, model.picture[0] // rows), max(1, model.picture[1] // columns)


def usual_blend(model: Candidate) -> int:
    """Width of the border along which drawn pixels are brought to the given ones, unless it is said: half a token."""
    return math.ceil(cell(model)[0] / 2)


def check(canvas: Canvas, model: Candidate) -> None:
    """Refuse a canvas that no window fits into, or one that is too large.

    Raises:
        InputError: says why.
    """
    (height, width), (down, across) = canvas.done.shape, model.picture[:2]
    if model.shape.grid[0] == 1 and not model.shape.scales:
        raise InputError("this model's tokens stand for the whole picture, not for places in it: it draws no window")
    if height < down or width < across:
        raise InputError(
            f"the result would have {width} x {height} pixels, and this model's pictures have {across} x {down}: one "
            f"of them has to fit into it"
        )
    check_size(height, width, canvas.pixels.shape[3], len(canvas.pixels))


def check_size(height: int, width: int, channels: int, count: int) -> None:
    """Refuse pictures that are too large, before there are any.

    Raises:
        InputError: says how large they may be.
    """
    if max(height, width) > MOST_SIDE:
        raise InputError(f"the result would have {width} x {height} pixels; a side has at most {MOST_SIDE}")
    try:
        check_pictures((height, width, channels), count)
    except ValueError as error:
        raise InputError(str(error)) from error
