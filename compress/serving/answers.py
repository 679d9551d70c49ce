"""What a request gets: its pictures as one PNG, or as JSON with a PNG of each.

Letters: n pictures of H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.serving.asked import Asked
from export.runtime.shape import Shape
from export.runtime.sheet import panel

JSON, PNG = "application/json", "image/png"


def chosen(accept: str) -> str | None:
    """The media type of an answer to what an `Accept` header takes (RFC 9110): JSON unless a PNG is liked better."""
    liked = {JSON: 0.0, PNG: 0.0}
    for kind in liked:
        ranges = {kind: 3, f"{kind.partition('/')[0]}/*": 2, "*/*": 1}
        closest = 0  # the closest range that names it decides
        for part in (accept or "*/*").split(","):
            name, *parameters = (word.strip().lower() for word in part.split(";"))
            if ranges.get(name, 0) > closest:
                closest, liked[kind] = ranges[name], weight(parameters)
    best = PNG if liked[PNG] > liked[JSON] else JSON
    return best if liked[best] else None


def weight(parameters: list[str]) -> float:
    """The q of a media range; 1 where it says none, or nonsense."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 1.0
    return 1.0


def png(pictures: NDArray[np.uint8]) -> bytes:
    """One picture (1, H, W, C) as it is, or several as the sheet that `compress generate` writes."""
    (one,) = pictures if len(pictures) == 1 else (None,)
    image = panel(pictures, 10) if one is None else Image.fromarray(one[..., 0] if one.shape[2] == 1 else one)
    written = io.BytesIO()
    image.save(written, format="PNG")
    return written.getvalue()


def as_json(pictures: NDArray[np.uint8], asked: Asked, shape: Shape, seconds: float) -> dict[str, Any]:
    """Pictures (n, H, W, C) with what they are; `pictures` holds a PNG of each in base64."""
    return {
        "label": asked.label,
        "name": shape.class_name(asked.label),
        "seed": asked.seed,
        "seconds": round(seconds, 6),
        "pictures": [base64.b64encode(png(each[None])).decode("ascii") for each in pictures],
    }
