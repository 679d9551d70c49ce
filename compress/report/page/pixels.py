"""Pictures of a run as data URIs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from compress.core.settings import InputError
from compress.data.picture_files import open_picture

MOST_BYTES = 400_000  # of a sheet; a larger one is shown smaller, and compressed
LARGEST_SIDE = 1400


def sheet_uris(reference: Path, drawn: Path) -> tuple[str, str, str] | None:
    """Two sheets laid out alike and their absolute difference, white where equal; None if unreadable."""
    try:
        theirs, own = (open_picture(path).convert("RGB") for path in (reference, drawn))
    except InputError:
        return None
    if theirs.size != own.size:
        return None
    apart = np.abs(np.asarray(theirs, dtype=np.int16) - np.asarray(own, dtype=np.int16)).astype(np.uint8)
    one, two, three = (uri(image) for image in (theirs, own, Image.fromarray(255 - apart)))
    return one, two, three


def uri(image: Image.Image) -> str:
    """A picture as a data URI: exact as PNG while that is small, else as WebP of at most 1,400 pixels a side."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    kind = "png"
    if buffer.tell() > MOST_BYTES:
        small = image.copy()
        small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        buffer, kind = io.BytesIO(), "webp"
        small.save(buffer, format="WEBP", quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
