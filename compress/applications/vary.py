"""Variations of a picture: a share of its tokens stays, the others are drawn anew, of another class if one likes.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.applications.asked import Report, silent
from compress.applications.limits import WIDEST_BLEND, check_count, check_share
from compress.applications.staying import Where, staying
from compress.core.settings import InputError
from compress.data.editing import Edit, feathered, pixels_of, tokens_of
from compress.data.picture_files import fitted
from compress.data.reading import AS_USUAL, Reading, Tally
from compress.data.wish import Drawer, Wish
from compress.models.candidate import Candidate
from export.runtime.drawing import Known


def vary(
    model: Candidate,
    image: Image.Image,
    wish: Wish,
    keep: float = 0.5,
    where: Where | None = None,
    blend: int | None = None,
    *,
    reading: Reading = AS_USUAL,
    tally: Tally | None = None,
    report: Report = silent,
) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) that share tokens with a given one, which is cropped and scaled to the model's size.

    The model's decoder draws all of each picture; with `blend` the pixels of tokens that stay are those of the given
    picture, byte for byte, and fade out over so many pixels beside them.

    Raises:
        InputError: the model cannot encode a picture, or cannot keep such tokens.
    """
    check_share("keep", keep)
    check_count("blend", blend, 0, WIDEST_BLEND)
    pixels = fitted(image, model.picture, reading, tally)
    tokens = tokens_of(model, pixels[None], "picture")
    stays = staying(model.shape, keep, where, wish.seed)
    share = None
    if blend is not None:
        kept = pixels_of(stays, model.shape, model.picture[:2])
        if kept is None:
            raise InputError(f"--blend {blend}: tokens of this model have no place in the picture; leave it out")
        share = feathered(kept, blend)
    edit = Edit(Known(np.repeat(tokens, len(wish.labels), axis=0), stays), pixels, share)
    return wish.draw(Drawer("", model, edit), report=report)
