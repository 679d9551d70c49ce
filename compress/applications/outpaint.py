"""Outpainting: a picture is continued beyond its edges, window by window.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.applications.asked import Report, pixels_in, silent
from compress.applications.canvas import Canvas, cell, check_size, fill, free_sides, usual_blend
from compress.applications.limits import MOST_OVERLAP, WIDEST_BLEND, check_count, check_share
from compress.applications.sides import check_side
from compress.core.settings import InputError
from compress.data.wish import Wish
from compress.models.candidate import Candidate
from export.runtime.shape import Shape

OVERLAP = 0.5  # of neighbouring windows


@dataclass(frozen=True)
class Margins:
    """Pixels that are added on each side."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


def outpaint(
    model: Candidate,
    image: Image.Image,
    wish: Wish,
    extend: Mapping[str, float],
    overlap: float = OVERLAP,
    blend: int | None = None,
    *,
    own_size: bool = False,
    report: Report = silent,
) -> tuple[NDArray[np.uint8], int]:
    """Pictures (N, H, W, C) that hold a given one, and go on on the sides of `extend`; and the windows that were drawn.

    `extend` has shares of the picture's width or height, rounded to whole tokens. The picture is scaled so that its
    shorter side is the model's, unless it keeps its `own_size`; its pixels are then those of the result, byte for byte.
    `fill` says how windows are drawn and joined.

    Raises:
        InputError: a side is none or cannot be continued by this model, or the result is too small or too large.
    """
    check_share("overlap", overlap, MOST_OVERLAP)
    check_count("blend", blend, 0, WIDEST_BLEND)
    check_sides(extend, model.shape)
    given = pixels_in(image if own_size else scaled(image, model), model.picture[2])
    height, width, channels = given.shape
    margins = margins_of(extend, (height, width), cell(model))
    size = (margins.top + height + margins.bottom, margins.left + width + margins.right)
    count = len(wish.labels)
    check_size(*size, channels, count)
    canvas = Canvas(np.zeros((count, *size, channels), dtype=np.uint8), np.zeros(size, dtype=bool))
    place = (slice(margins.top, margins.top + height), slice(margins.left, margins.left + width))
    canvas.pixels[:, *place], canvas.done[place] = given, True
    windows = fill(canvas, model, wish, overlap, usual_blend(model) if blend is None else blend, report=report)
    return canvas.pixels, windows


def check_sides(extend: Mapping[str, float], shape: Shape) -> None:
    """Refuse sides that are none, or that a model does not draw behind what it is given.

    Raises:
        InputError: says which it draws.
    """
    if not extend:
        raise InputError("--extend: names no side; right=0.5 goes on by half of the picture's width")
    free = free_sides(shape)
    for side, share in extend.items():
        check_side(side, share)
        if side not in free:
            raise InputError(
                f"--extend {side}: this model draws {shape.drawing.words}, each behind those before it, so tokens "
                f"there would not see the picture; it continues {' and '.join(sorted(free)) or 'no side'}, a masked "
                f"model all"
            )


def scaled(image: Image.Image, model: Candidate) -> Image.Image:
    """A picture whose shorter side is that of the model's pictures; the longer one has whole tokens."""
    sides = []
    share = max(model.picture[1] / image.width, model.picture[0] / image.height)
    for length, own, token in zip(image.size, model.picture[1::-1], cell(model)[::-1], strict=True):
        sides.append(max(own, round(length * share / token) * token))
    if image.size == (sides[0], sides[1]):
        return image
    check_size(sides[1], sides[0], model.picture[2], 1)
    filtered = Image.Resampling.BOX if model.picture[2] == 1 else Image.Resampling.LANCZOS  # as `fitted` does
    return image.resize((sides[0], sides[1]), filtered)


def margins_of(extend: Mapping[str, float], size: tuple[int, int], token: tuple[int, int]) -> Margins:
    """Pixels beside a picture of this height and width, of whole tokens, at least one."""
    made = {}
    for side, share in extend.items():
        axis = 0 if side in ("top", "bottom") else 1
        made[side] = math.ceil(round(share * size[axis] / token[axis], 6)) * token[axis]
    return Margins(**made)
