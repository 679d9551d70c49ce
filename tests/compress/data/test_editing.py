"""What stays of a given picture: masks on every grid, shares in the order of drawing, and engines that keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.data.editing import edit_of, feathered, first_share, outside, pixels_of, touched
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
    known = edit_of(model, tmp_path / "in.png", tmp_path / "mask.png", None, 0, 2).known
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
    known = edit_of(tiny_model(), tmp_path / "photo.jpg", tmp_path / "mask.png", None, None, 1).known
    assert 0 < (~known.where).sum() < 64
    Image.fromarray(mask.T).save(tmp_path / "mask.png")
    with pytest.raises(InputError) as caught:
        edit_of(tiny_model(), tmp_path / "photo.jpg", tmp_path / "mask.png", None, None, 1)
    assert str(caught.value) == (
        f"--mask {tmp_path}/mask.png: 40 x 30 pixels; --image {tmp_path}/photo.jpg is shown in 30 x 40: "
        "the mask needs the same size"
    )


def test_a_mask_that_draws_nothing_anew_is_refused(tiny_model, tmp_path: Path) -> None:
    for name in ("in", "mask"):
        Image.new("L", (9, 9)).save(tmp_path / f"{name}.png")
    with pytest.raises(InputError, match=r"mask\.png: is black wherever the picture is read; what is white is drawn"):
        edit_of(tiny_model(), tmp_path / "in.png", tmp_path / "mask.png", None, None, 1)


def test_known_tokens_of_another_length_are_refused(tiny_model) -> None:
    known = Known(np.zeros((1, 9), dtype=np.int64), np.zeros(9, dtype=bool))
    with pytest.raises(ValueError, match=r"known tokens \(1, 9\)"):
        tiny_model().draw_tokens(np.array([0]), known=known)


def test_a_file_that_is_no_picture_is_refused(tiny_model, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_text("no picture")
    with pytest.raises(InputError, match="not a readable picture"):
        edit_of(tiny_model(), tmp_path / "in.png", None, 0.5, None, 1)


def test_what_stays_fades_out_beside_pixels_that_are_all_kept() -> None:
    kept = np.zeros((1, 8), dtype=bool)
    kept[0, :2] = True
    assert feathered(kept, 3)[0].tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    assert feathered(kept, 0)[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert not feathered(np.zeros((2, 2), dtype=bool), 3).any()
    kept = np.zeros((3, 3), dtype=bool)
    kept[0, 0] = True
    assert feathered(kept, 2)[1, 1] == pytest.approx(1 - np.sqrt(2) / 3), "across corners, too"


def test_a_token_stands_for_the_pixels_of_its_cell() -> None:
    shape = Shape("causal", vocabulary=17, classes=3, grid=(2, 2))
    found = pixels_of(np.array([True, False, False, True]), shape, (4, 2))
    assert found.tolist() == [[True, False]] * 2 + [[False, True]] * 2
    assert pixels_of(np.ones(21, dtype=bool), SCALES, (8, 8)) is None
    assert pixels_of(np.ones(32, dtype=bool), Shape("masked", 17, 3, (1, 32)), (8, 8)) is None


def test_pixels_that_stay_are_pasted_byte_for_byte(tiny_model, tmp_path: Path) -> None:
    given = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(given).save(tmp_path / "in.png")
    drawn = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    edit = edit_of(tiny_model(), tmp_path / "in.png", None, 0.5, 3, 2)
    pasted = edit.paste(drawn)[..., 0]
    assert all(np.array_equal(each[:4], given[:4]) for each in pasted)
    border = np.rint(0.75 * given[4] + 0.25 * drawn[:, 4, :, 0])
    assert np.array_equal(pasted[:, 4], border)
    assert np.array_equal(pasted[:, 7], drawn[:, 7, :, 0])
    hard = edit_of(tiny_model(), tmp_path / "in.png", None, 0.5, None, 2).paste(drawn)[..., 0]
    assert np.array_equal(hard[:, 4:], drawn[:, 4:, :, 0]), "half of the one pixel of a token is none"


def test_the_coarse_scales_have_no_pixels_to_paste(tiny_model, tmp_path: Path, monkeypatch) -> None:
    model = tiny_model()
    Image.new("L", (8, 8)).save(tmp_path / "in.png")
    monkeypatch.setattr("compress.data.editing.pixels_of", lambda *given: None)
    drawn = np.ones((1, 8, 8, 1), dtype=np.uint8)
    assert edit_of(model, tmp_path / "in.png", None, 0.5, None, 1).paste(drawn) is drawn
    with pytest.raises(InputError, match=r"^--blend 2: what --keep keeps of this model has no place in the picture"):
        edit_of(model, tmp_path / "in.png", None, 0.5, 2, 1)
