import numpy as np
import pytest
from PIL import Image, ImageFont

from compress.measure.pictures.images import FONT_SIZE, PAPER, captioned, save_pair, wrapped
from export.runtime.sheet import FRAME, GAP


def pictures(count, side=8, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(count, side, side, channels), dtype=np.uint8)


def test_a_pair_puts_classes_in_rows_and_the_same_seeds_in_the_same_places(tmp_path):
    reference, candidate = pictures(5), pictures(5, seed=1)
    labels = np.array([7, 3, 7, 3, 7])
    save_pair(reference, candidate, labels, tmp_path / "pair.png", columns=2)
    sheet = np.asarray(Image.open(tmp_path / "pair.png"))

    def places(picture):
        block = picture.repeat(7, axis=0).repeat(7, axis=1).repeat(3, axis=2)
        windows = np.lib.stride_tricks.sliding_window_view(sheet, block.shape)[:, :, 0]
        return [tuple(place) for place in np.argwhere((windows == block).all(axis=(2, 3, 4)))]

    first, second, third = (places(reference[i]) for i in (1, 3, 0))
    assert [len(found) for found in (first, second, third)] == [1, 1, 1]
    assert first[0][0] == second[0][0] < third[0][0]
    assert first[0][1] == third[0][1] < second[0][1]
    assert places(reference[4]) == []  # the third picture of class 7 finds no room in two columns
    twin = places(candidate[1])
    assert twin[0][0] == first[0][0]
    assert twin[0][1] > second[0][1] + 60


def test_equal_pictures_differ_by_nothing_but_white(tmp_path):
    images, labels = pictures(4), np.arange(4)
    save_pair(images, images, labels, tmp_path / "pair.png", difference=True)
    sheet = np.asarray(Image.open(tmp_path / "pair.png"))
    last = sheet[40:-10, -(GAP + 70) :]
    assert {tuple(colour) for colour in last.reshape(-1, 3)} <= {PAPER, FRAME}


def test_a_caption_wider_than_its_sheet_goes_on_in_the_next_line_and_no_letter_is_cut(tmp_path):
    long = "the reference in fp32 PyTorch, as its authors publish it\nrunning"
    lines = wrapped(long, 240, ImageFont.load_default(FONT_SIZE))
    assert " ".join(lines) == long.replace("\n", " ")
    assert len(lines) == 4
    assert wrapped("", 240, ImageFont.load_default(FONT_SIZE)) == [""]
    sheet = Image.new("RGB", (64, 64), FRAME)
    for caption in (long, "a" * 60):
        made = np.asarray(captioned([(caption, sheet), ("b", sheet), (caption, sheet)]))
        assert (made[:, [0, -1]] == PAPER).all(), "nothing touches an edge"
        assert (made[0] == PAPER).all()
        assert ((made == FRAME).all(axis=2)).sum() == 3 * 64 * 64, "no line is below a sheet"


def test_sets_that_do_not_pair_up_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pictures \(2, 8, 8, 1\) and \(3, 8, 8, 1\) with 2 labels do not pair up"):
        save_pair(pictures(2), pictures(3), np.arange(2), tmp_path / "pair.png")
