"""An answer is what the client takes: a PNG, or JSON with a PNG of each picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from compress.serving.answers import JSON, PNG, chosen, png


def opened(data: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("IMAGE/PNG;q=0.9, application/json;q=0.5", PNG),
        ("image/png;q=0.5, */*", JSON),
        ("application/json;q=0, */*", PNG),
        ("text/html", None),
        ("image/png;q=0", None),
        ("image/png;q=high", PNG),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
    ],
)
def test_the_media_type_that_is_liked_best_is_answered(accept: str, kind: str | None) -> None:
    assert chosen(accept) == kind


@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_is_a_png_of_its_own_size(channels: int) -> None:
    picture = np.arange(6 * channels, dtype=np.uint8).reshape(1, 2, 3, channels)
    assert (opened(png(picture)).reshape(2, 3, channels) == picture[0]).all()


def test_several_are_the_sheet_of_generate() -> None:
    pictures = np.full((2, 8, 8, 1), 255, dtype=np.uint8)
    assert opened(png(pictures)).shape == (64, 124, 3)  # two of 56 pixels in a frame of 4
