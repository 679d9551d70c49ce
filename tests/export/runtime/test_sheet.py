"""A grid of pictures as one PNG."""

from __future__ import annotations

import numpy as np
from PIL import Image

from export.runtime.sheet import FRAME, GAP, panel, save_grid


def pictures(count, side=8, channels=1):
    return np.random.default_rng(0).integers(0, 256, size=(count, side, side, channels), dtype=np.uint8)


def test_every_pixel_of_a_grid_is_a_square_of_its_own_grey(tmp_path):
    images = pictures(3)
    save_grid(images, tmp_path / "grid.png", columns=2)
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (2 * 60 + GAP, 2 * 60 + GAP, 3)
    third = sheet[GAP + 60 : 2 * 60, GAP:60]
    np.testing.assert_array_equal(third[::7, ::7], images[2].repeat(3, axis=2))
    np.testing.assert_array_equal(third[6::7, 6::7], images[2].repeat(3, axis=2))
    assert tuple(sheet[0, 0]) == FRAME


def test_large_coloured_pictures_are_not_enlarged():
    assert panel(pictures(2, side=64, channels=3), columns=5).size == (2 * 68 + GAP, 68 + GAP)
