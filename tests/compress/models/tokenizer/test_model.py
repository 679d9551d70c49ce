"""The pixel tokenizer: grey levels worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from compress.models.tokenizer.model import PixelTokenizer


def test_grey_values_become_the_nearest_level_row_by_row() -> None:
    tokenizer = PixelTokenizer(levels=5, grid=(1, 4))  # levels stand for 0, 63.75, 127.5, 191.25 and 255
    images = np.array([[[0, 31, 32, 96]], [[127, 128, 224, 255]]], dtype=np.uint8)
    assert tokenizer.encode(images).tolist() == [[0, 0, 1, 2], [2, 2, 4, 4]]
    assert PixelTokenizer(3, (2, 2)).encode(np.array([[[0, 255], [128, 1]]], dtype=np.uint8)).tolist() == [[0, 2, 1, 0]]


def test_levels_become_grey_values_again() -> None:
    tokenizer = PixelTokenizer(levels=5, grid=(2, 2))
    assert tokenizer.palette().tolist() == [[0], [64], [128], [191], [255]]
    pictures = tokenizer.decode(np.array([[0, 1, 2, 4]]))
    assert pictures.dtype == np.uint8
    assert pictures.tolist() == [[[[0], [64]], [[128], [255]]]]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_token_survives_a_picture(levels: int) -> None:
    tokenizer = PixelTokenizer(levels, (1, levels))
    tokens = np.arange(levels)[None]
    assert np.array_equal(tokenizer.encode(tokenizer.decode(tokens)[..., 0]), tokens)


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pictures are \(4, 6, 1\); the tokenizer's are \(8, 8, 1\)"):
        PixelTokenizer(17, (8, 8)).encode(np.zeros((2, 4, 6), dtype=np.uint8))
