"""What stays of a given picture: masks on every grid, shares in the order of drawing, and engines that keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.data.editing import first_share, known_tokens, outside, touched
from export.runtime.drawing import Known
from export.runtime.sampling import Sampler, halton_order
from export.runtime.shape import Shape

CAUSAL = Shape("causal", vocabulary=17, classes=3, grid=(8, 8))
MASKED = Shape("masked", vocabulary=17, classes=3, grid=(8, 8))
SCALES = Shape("next-scale", vocabulary=17, classes=3, grid=(4, 4), scales=(1, 2, 4), latent_width=4)


def test_a_cell_is_touched_by_any_of_its_pixels() -> None:
    pixels = np.zeros((8, 8), dtype=bool)
    pixels[5, 2] = True
    assert np.argwhere(touched(pixels, (4, 4))).tolist() == [[2, 1]]
    assert np.argwhere(touched(pixels, (1, 1))).tolist() == [[0, 0]]


def test_a_pixel_across_two_cells_touches_both() -> None:
    pixels = np.zeros((4, 4), dtype=bool)
    pixels[1, 0] = True  # rows 1.0 to 2.0 of 4 overlap cells 0 and 1 of 3: 0 to 1.33, 1.33 to 2.67
    assert touched(pixels, (3, 1))[:, 0].tolist() == [True, True, False]


def test_a_mask_redraws_its_place_on_every_scale() -> None:
    pixels = np.zeros((8, 8), dtype=bool)
    pixels[:2, :2] = True
    where = outside(pixels, SCALES, Path("mask.png"))
    assert where.tolist() == [False, *[False, True, True, True], *[False] + [True] * 15]


def test_tokens_without_a_place_cannot_be_masked() -> None:
    shape = Shape("masked", vocabulary=17, classes=3, grid=(1, 32))
    with pytest.raises(InputError, match="stand for the whole picture"):
        outside(np.zeros((8, 8), dtype=bool), shape, Path("mask.png"))


def test_a_share_stays_in_the_order_of_drawing() -> None:
    assert np.flatnonzero(first_share(CAUSAL, 0.5)).tolist() == list(range(32)), "the upper half"
    assert np.flatnonzero(first_share(SCALES, 5 / 21)).tolist() == [0, 1, 2, 3, 4], "the two coarse scales"
    assert set(np.flatnonzero(first_share(MASKED, 0.25))) == set(halton_order((8, 8))[:16]), "spread over the picture"


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_a_model_keeps_the_upper_half_and_draws_the_lower(kind: str, tiny_model, tmp_path: Path) -> None:
    changes = {} if kind == "causal" else {"order": "masked", "positions": "learned", "modulation": "class"}
    model = tiny_model(**changes)
    given = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)
    Image.fromarray(given).save(tmp_path / "in.png")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    known = known_tokens(model, tmp_path / "in.png", tmp_path / "mask.png", None, 2)
    assert known.where.tolist() == [True] * 32 + [False] * 32
    drawn = model.draw_tokens(np.array([1, 2]), 3, Sampler(cfg_scale=1.5, steps=4), known=known)
    assert np.array_equal(drawn[:, :32], known.tokens[:, :32])
    assert not np.array_equal(drawn[:, 32:], known.tokens[:, 32:])
    assert drawn.max() < 17


def test_a_mask_is_of_the_size_that_the_picture_is_shown_in(tiny_model, tmp_path: Path) -> None:
    photo = Image.new("L", (40, 30), 90)
    exif = photo.getexif()
    exif[0x112] = 6  # shown as 30 x 40
    photo.save(tmp_path / "photo.jpg", exif=exif)
    mask = np.zeros((40, 30), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    known = known_tokens(tiny_model(), tmp_path / "photo.jpg", tmp_path / "mask.png", None, 1)
    assert 0 < (~known.where).sum() < 64
    Image.fromarray(mask.T).save(tmp_path / "mask.png")
    with pytest.raises(InputError) as caught:
        known_tokens(tiny_model(), tmp_path / "photo.jpg", tmp_path / "mask.png", None, 1)
    assert str(caught.value) == (
        f"--mask {tmp_path}/mask.png: 40 x 30 pixels; --image {tmp_path}/photo.jpg is shown in 30 x 40: "
        "the mask needs the same size"
    )


def test_a_mask_that_draws_nothing_anew_is_refused(tiny_model, tmp_path: Path) -> None:
    for name in ("in", "mask"):
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=r"mask\.png: is black wherever the picture is read; what is white is drawn"):
        known_tokens(tiny_model(), tmp_path / "in.png", tmp_path / "mask.png", None, 1)


def test_known_tokens_of_another_length_are_refused(tiny_model) -> None:
    known = Known(np.zeros((1, 9), dtype=np.int64), np.zeros(9, dtype=bool))
    with pytest.raises(ValueError, match=r"known tokens \(1, 9\)"):
        tiny_model().draw_tokens(np.array([0]), known=known)


def test_a_file_that_is_no_picture_is_refused(tiny_model, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_text("no picture")
    with pytest.raises(InputError, match="not a readable picture"):
        known_tokens(tiny_model(), tmp_path / "in.png", None, 0.5, 1)
