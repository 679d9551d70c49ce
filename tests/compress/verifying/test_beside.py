"""Two models side by side: what is drawn and timed, the difference, and which models do not pair up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compress.core.settings import InputError
from compress.verifying import beside as module
from compress.verifying.beside import Drawer, Pair, Wish, beside
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

SHAPE = Shape("causal", 7, 3, (2, 4), class_names=("a", "b", "c"))


class Painter:
    """A model whose pictures are of one grey."""

    manifest = None  # as engines have one: PyTorch does not draw
    cache_bytes = 1
    picture = (4, 4, 1)
    classes = 3

    def __init__(self, grey: int, noted: list[tuple[int, int]], shape: Shape = SHAPE, **changed: Any) -> None:
        self.grey, self.noted, self.shape, self.sampler = grey, noted, shape, Sampler()
        for name, value in changed.items():
            setattr(self, name, value)

    def draw_tokens(self, labels, *given, **more):
        self.noted.append((self.grey, len(labels)))
        return np.zeros((len(labels), 8), dtype=np.int64)

    def decode_images(self, tokens):
        return np.full((len(tokens), *self.picture), self.grey, dtype=np.uint8)


def drawn(first: Painter, second: Painter) -> Pair:
    wish = Wish(np.array([0, 1, 2]), 0, None, 2, {})
    return beside(Drawer("one", first), Drawer("two", second), wish, 1)


def test_both_draw_a_batch_before_they_are_timed_in_turn() -> None:
    noted: list[tuple[int, int]] = []
    pair = drawn(Painter(10, noted), Painter(12, noted))
    assert noted[:2] == [(10, 2), (12, 2)], "the warm-up"
    assert noted[2:] == [(10, 2), (10, 1), (12, 2), (12, 1)] * 3
    assert [len(each) for each in pair.seconds] == [3, 3]
    assert [int(each.mean()) for each in pair.pictures] == [10, 12]


def test_no_further_round_begins_once_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_S", 0.0)
    pair = drawn(Painter(10, []), Painter(10, []))
    assert [len(each) for each in pair.seconds] == [1, 1]
    assert pair.lines()[2].endswith("(one round of either, after a warm-up)")


def test_the_difference_is_the_psnr_of_all_pictures() -> None:
    black, white = np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    pair = Pair(("a", "b" * 40), (black, white), ((1.0, 4.0, 2.0), (1.0, 1.0, 1.0)))
    assert pair.psnr == pytest.approx(3.0103, abs=1e-4), "half of the pixels are wrong: 10 log10 2"
    assert pair.lines()[:2] == ["a: 2 s, 1 images/s", f"{'b' * 40}: 1 s, 2 images/s"]
    assert pair.lines()[2].startswith("difference 3.0 dB PSNR; 2 times as fast as the reference")
    assert (pair.said()["speedup"], pair.said()["reference"]["rounds"]) == (2.0, [1.0, 4.0, 2.0])
    same = replace(pair, pictures=(black, black))
    assert (same.psnr, same.difference) == (None, "no difference")
    assert pair.sheet().height == same.sheet().height


def test_a_sheet_has_the_three_sets_of_pictures() -> None:
    first = np.full((1, 56, 56, 3), 20, np.uint8)
    sheet = np.asarray(Pair(("a", "b"), (first, first + 5), ((1.0,), (1.0,))).sheet())
    greys = sheet[-30].mean(axis=-1)
    assert [int((greys == grey).sum()) for grey in (20, 25, 250)] == [56, 56, 56]


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"picture": (8, 8, 1)}, "its pictures are not those of two: (4, 4, 1) and (8, 8, 1)"),
        ({"classes": 5}, "its classes are not those of two: 3 and 5"),
        ({"shape": replace(SHAPE, class_names=("a", "c", "b"))}, "its names of classes are not those of two"),
    ],
)
def test_models_of_other_data_do_not_pair_up(other: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        drawn(Painter(0, [], **other), Painter(0, []))
    assert str(caught.value) == f"--beside one: {line}; give a model of the same data"
    drawn(Painter(0, [], shape=replace(SHAPE, class_names=())), Painter(0, []))
