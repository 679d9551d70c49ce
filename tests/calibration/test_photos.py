"""Crops of the shipped photographs: parts are disjoint, and the same arguments give the same crops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from calibration import photos
from calibration.photos import (
    CROP,
    PHOTOS,
    Box,
    Photo,
    grid_boxes,
    photo_crops,
    regions,
    training_boxes,
    training_crops,
)


def painted(photo: Photo, boxes: list[Box]) -> np.ndarray:
    """How many of the boxes cover each pixel."""
    count = np.zeros(photos.pixels(photo).shape[:2], dtype=int)
    for box in boxes:
        count[box.top : box.bottom, box.left : box.right] += 1
    return count


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.name)
def test_the_parts_of_a_photograph_cover_each_pixel_once(photo: Photo) -> None:
    assert (painted(photo, list(regions(photo).values())) == 1).all()


def test_no_training_crop_touches_a_pixel_of_another_part() -> None:
    boxes = [
        (label, box)
        for size in (64, CROP)
        for label, box, _ in training_boxes(4000, size, np.random.Generator(np.random.Philox(7)))
    ]
    parts = {
        "train": boxes,
        "held_out": grid_boxes("held_out"),
        "validation": grid_boxes("validation"),
    }
    for label, photo in enumerate(PHOTOS):
        covered = {
            name: painted(photo, [box for own, box in found if own == label]) > 0 for name, found in parts.items()
        }
        assert all(cover.any() for cover in covered.values()), photo.name
        for one, other in combinations(covered, 2):
            assert not (covered[one] & covered[other]).any(), f"{photo.name}: {one} and {other}"


def test_training_crops_do_not_depend_on_the_pixels_of_other_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    before, held_out = photo_crops("train", 200, seed=3)[0], photo_crops("held_out", 20)[0]
    original = photos.pixels

    def spoilt(photo: Photo) -> np.ndarray:
        array = original(photo).copy()
        for part in ("held_out", "validation"):
            regions_of[photo.name][part].of(array)[:] = 255 - regions_of[photo.name][part].of(array)
        return array

    regions_of = {photo.name: regions(photo) for photo in PHOTOS}
    monkeypatch.setattr(photos, "pixels", spoilt)
    assert np.array_equal(photo_crops("train", 200, seed=3)[0], before)
    assert not np.array_equal(photo_crops("held_out", 20)[0], held_out), "the test spoils what it means to spoil"


def test_halving_a_photograph_mixes_no_pixels_across_the_cut() -> None:
    # Each reduced pixel is the mean of its own 2x2 block, so no region of the reduced picture sees another one.
    from importlib import resources

    from PIL import Image

    photo = next(photo for photo in PHOTOS if photo.name == "hubble")
    with resources.files(photo.package).joinpath(photo.path).open("rb") as stream:
        full = np.asarray(Image.open(stream).convert("RGB")).astype(float)
    blocks = full.reshape(full.shape[0] // 2, 2, full.shape[1] // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(photos.pixels(photo) - blocks).max() <= 0.5


@pytest.mark.parametrize("part", ["train", "validation", "held_out"])
def test_the_same_arguments_give_the_same_crops(part) -> None:
    images, labels = photo_crops(part, 40, seed=1)
    again = photo_crops(part, 40, seed=1)
    assert images.shape == (40, CROP, CROP, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(images, again[0])
    assert np.array_equal(labels, again[1])
    assert not np.array_equal(images, photo_crops(part, 40, seed=2)[0])


def test_grid_crops_are_all_crops_of_the_grid_and_classes_take_turns() -> None:
    images, labels = photo_crops("held_out")
    assert len(images) == len(grid_boxes("held_out"))
    assert sorted(labels[:10]) == list(range(10))
    assert np.bincount(photo_crops("held_out", 60)[1]).tolist() == [6] * 10
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) > 0.9 * len(images)


def test_training_crops_have_the_size_that_is_asked_for() -> None:
    images, labels = training_crops(9, np.random.Generator(np.random.Philox(0)), size=32)
    assert images.shape == (9, 32, 32, 3)
    assert labels.min() >= 0
    assert labels.max() < len(PHOTOS)


def test_an_unscaled_unmirrored_crop_is_cut_from_the_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(5, 7, 5 + CROP, 7 + CROP)
    monkeypatch.setattr(photos, "training_boxes", lambda *_: iter([(2, box, False), (2, box, True)]))
    images, labels = photo_crops("train", 2)
    cut = photos.pixels(PHOTOS[2])[5 : 5 + CROP, 7 : 7 + CROP]
    assert np.array_equal(images[0], cut)
    assert np.array_equal(images[1], cut[:, ::-1])
    assert labels.tolist() == [2, 2]


def test_more_crops_than_the_grid_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^9999 held_out crops are asked for, but the grid has \d+$"):
        photo_crops("held_out", 9999)
    with pytest.raises(ValueError, match=r"^training crops are random: say how many$"):
        photo_crops("train")


def test_a_photograph_that_no_package_ships_is_said() -> None:
    with pytest.raises(
        ValueError, match=r"^photograph moon: .*moon\.jpg is missing; install the scikit-image of constr"
    ):
        photos.pixels(Photo("moon", "skimage", "data/moon.jpg", "left"))
