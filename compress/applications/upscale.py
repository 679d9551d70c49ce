"""Upscaling: what a small picture shows stays, and the model draws the detail.

Letters: N pictures, H x W pixels, C channels, T tokens of a picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.applications.asked import Report, pixels_in, silent
from compress.applications.canvas import Canvas, check_size, fill, usual_blend
from compress.applications.limits import MOST_FACTOR, MOST_OVERLAP, WIDEST_BLEND, check_count, check_share
from compress.applications.outpaint import OVERLAP
from compress.applications.staying import staying
from compress.core.settings import InputError
from compress.data.wish import Wish
from compress.models.candidate import Candidate
from export.runtime.shape import Shape

KEEP = 0.5  # of the tokens of a model without scales
ROUNDS = 20  # of back-projection; ten bring the error below one grey level but at clipped pixels


def upscale(
    model: Candidate,
    image: Image.Image,
    wish: Wish,
    factor: int = 2,
    keep: float | None = None,
    scales: int | None = None,
    overlap: float = OVERLAP,
    blend: int | None = None,
    *,
    free: bool = False,
    report: Report = silent,
) -> tuple[NDArray[np.uint8], int]:
    """Pictures (N, H, W, C) of `factor` times the sides of a given one, and the windows that were drawn.

    The picture is enlarged smoothly and becomes tokens, window by window. A next-scale model keeps its coarse `scales`
    (those that the small picture has pixels for, by default), any other `keep` of its tokens, spread over the picture;
    the rest is drawn. Then what differs from the given picture when made small again is taken off, unless `free`:
    the mean of each factor x factor pixels is the given pixel, but for rounding and where 0 and 255 end it.

    Raises:
        InputError: the model has no such setting, or the result is too small or too large.
    """
    check_count("factor", factor, 2, MOST_FACTOR)
    check_share("keep", keep)
    check_share("overlap", overlap, MOST_OVERLAP)
    check_count("blend", blend, 0, WIDEST_BLEND)
    stays = tokens_that_stay(model, image, factor, keep, scales, wish.seed)
    small = pixels_in(image, model.picture[2])
    size, channels = (small.shape[0] * factor, small.shape[1] * factor), small.shape[2]
    count = len(wish.labels)
    check_size(*size, channels, count)
    guess = resized(small.astype(np.float32), size, Image.Resampling.BICUBIC)
    pixels = np.rint(guess).clip(0, 255).astype(np.uint8)
    canvas = Canvas(np.repeat(pixels[None], count, axis=0), np.zeros(size, dtype=bool))
    blend = usual_blend(model) if blend is None else blend
    windows = fill(canvas, model, wish, overlap, blend, stays, report)
    if free:
        return canvas.pixels, windows
    return np.stack([consistent(each, small) for each in canvas.pixels]), windows


def tokens_that_stay(
    model: Candidate, image: Image.Image, factor: int, keep: float | None, scales: int | None, seed: int
) -> NDArray[np.bool_]:
    """Tokens (T,) of each window that stay.

    Raises:
        InputError: the model has no such setting.
    """
    shape = model.shape
    if shape.drawing.sequential:
        raise InputError(
            f"upscale: this model draws {shape.drawing.words}, so most detail would be drawn before the tokens beside "
            f"it are read; a masked or a next-scale model can"
        )
    if not shape.scales:
        if scales is not None:
            raise InputError(f"--scales {scales}: this model has none; --keep says which share of its tokens stays")
        return staying(shape, KEEP if keep is None else keep, "spread", seed)
    if keep is not None:
        raise InputError(f"--keep {keep:g}: this model draws scale by scale; --scales says how many stay")
    count = seen_scales(shape, model.picture[0] // factor, model.picture[0]) if scales is None else scales
    if not 0 <= count <= len(shape.scales):
        raise InputError(f"--scales {count}: is out of range; this model has {len(shape.scales)}")
    return np.arange(shape.length) < sum(side * side for side in shape.scales[:count])


def seen_scales(shape: Shape, pixels: int, of: int) -> int:
    """Scales whose tokens a picture with so many of a side's pixels has detail for; the first always counts."""
    token = of / shape.scales[-1]  # pixels of the finest one
    return max(1, sum(side * token <= pixels for side in shape.scales))


def consistent(drawn: NDArray[np.uint8], small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawn picture (H, W, C) whose blocks have the means of a small one's pixels.

    By iterative back-projection (Irani and Peleg, CVGIP 53, 1991): the small picture's difference from the drawn one
    made small is enlarged smoothly and added, again and again.
    """
    made, size = drawn.astype(np.float32), (small.shape[0], small.shape[1])
    for _ in range(ROUNDS):
        missing = small - resized(made, size, Image.Resampling.BOX)
        made = np.clip(made + resized(missing, drawn.shape[:2], Image.Resampling.BICUBIC), 0, 255)
    return np.rint(made).astype(np.uint8)


def resized(pixels: NDArray[np.float32], size: tuple[int, ...], filtered: Image.Resampling) -> NDArray[np.float32]:
    """Pixels (H, W, C) at another height and width, each channel alone, not rounded."""
    height, width = size
    channels = [Image.fromarray(np.ascontiguousarray(each)) for each in np.moveaxis(pixels, 2, 0)]
    return np.stack([np.asarray(each.resize((width, height), filtered)) for each in channels], axis=2)
