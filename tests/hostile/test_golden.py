"""Golden files that are cut, damaged, or lack an array: one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
DATA = (GOLDEN / "llamagen-c2i" / "golden.npz").read_bytes()


def written(path: Path, data: bytes) -> Path:
    """The file with these bytes."""
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("length", [0, 1, 22, 100, 9153, len(DATA) - 1])
def test_a_cut_file_is_refused(length: int, here: Path, refused: Callable[..., str]) -> None:
    path = written(here / "cut.npz", DATA[:length])
    refused("models", "check", GOLDEN / "llamagen-c2i", "--golden", path, named=("cut.npz",))


@pytest.mark.parametrize("place", [60, 200, 3000])
def test_a_changed_byte_is_refused(place: int, here: Path, refused: Callable[..., str]) -> None:
    path = written(here / "changed.npz", DATA[:place] + bytes([DATA[place] ^ 0x55]) + DATA[place + 1 :])
    refused("models", "check", GOLDEN / "llamagen-c2i", "--golden", path, named=("changed.npz",))


def arrays(name: str) -> dict[str, Any]:
    """The arrays of a golden file."""
    with np.load(GOLDEN / name / "golden.npz") as file:
        return {each: file[each] for each in file.files}


@pytest.mark.parametrize("each", ["cond", "tokens", "logits", "greedy_cfg_scale", "greedy_image"])
def test_a_missing_array_is_named(each: str, here: Path, refused: Callable[..., str]) -> None:
    name = "llamagen-c2i"
    held = arrays(name)
    wanted = each if each in held else next(array for array in held if array.startswith("greedy"))
    np.savez(here / "less.npz", **{array: value for array, value in held.items() if array != wanted})
    refused("models", "check", GOLDEN / name, "--golden", here / "less.npz", named=("less.npz", wanted))


@pytest.mark.parametrize("kind", ["U8", "M8[s]", "S4", "c8"])
def test_an_array_that_holds_no_numbers_is_named(kind: str, here: Path, refused: Callable[..., str]) -> None:
    held = arrays("llamagen-c2i")
    np.savez(here / "odd.npz", **{**held, "logits": held["logits"].astype("i8").astype(kind)})
    refused("models", "check", GOLDEN / "llamagen-c2i", "--golden", here / "odd.npz", named=("odd.npz", "logits"))


@pytest.mark.parametrize("value", [-1, 2**40, 10**6])
def test_tokens_that_the_model_does_not_know_are_refused(value: int, here: Path, refused: Callable[..., str]) -> None:
    held = arrays("llamagen-c2i")
    np.savez(here / "odd.npz", **{**held, "tokens": np.full(held["tokens"].shape, value)})
    refused(
        "models", "check", GOLDEN / "llamagen-c2i", "--golden", here / "odd.npz", named=("--golden", "tokens", value)
    )


@pytest.mark.parametrize("path", ["/dev/zero", ".", "nothing.npz", ""])
def test_what_is_no_file_is_refused(path: str, here: Path, refused: Callable[..., str]) -> None:
    refused("models", "check", GOLDEN / "llamagen-c2i", "--golden", path)
