"""Each array of a golden file is looked at before a model is: what is missing, or of another kind, is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.core.settings import InputError
from compress.models import families
from compress.verifying import golden_arrays

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
FORMATS = {
    **{name: name for name in families.published() if name not in ("llamagen", "taming")},
    "llamagen-c2i": "llamagen",
    "llamagen-t2i": "llamagen",
    "taming-mingpt": "taming",
    **dict.fromkeys(("llamagen-vq", "rar-vqgan", "titok", "titok-pixels", "var-vqvae"), ""),
}
OPTIONAL = ("halton_order", "var_input", "decoded_image", "decoded", "decoded_unclamped", "encoded_codes")
ARRAYS = [
    (name, array) for name in FORMATS for array in np.load(GOLDEN / name / "golden.npz").files if array != "latents"
]
NEEDED = [
    (name, array)
    for name, array in ARRAYS
    if array not in OPTIONAL and (not array.startswith("tokens_") or array == "tokens_0")
]


def altered(name: str, folder: Path, **changes: np.ndarray | None) -> Path:
    """A golden file with some arrays replaced, or left out."""
    with np.load(GOLDEN / name / "golden.npz") as data:
        arrays = {**{each: data[each] for each in data.files}, **changes}
    np.savez(folder / "golden.npz", **{each: array for each, array in arrays.items() if array is not None})
    return folder / "golden.npz"


def read(name: str, path: Path) -> dict:
    """A golden file's arrays."""
    family = FORMATS[name]
    if not family:
        return golden_arrays.of_tokenizer(path)
    return golden_arrays.of_family(path, families.torch_family(family))


def complaint(name: str, path: Path) -> str:
    """What reading says, on one line."""
    with pytest.raises(InputError) as caught:
        read(name, path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--golden: {path}: ")
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_array_is_read(name: str) -> None:
    arrays = read(name, GOLDEN / name / "golden.npz")
    assert {(name, array) for array in arrays} == {each for each in ARRAYS if each[0] == name}


@pytest.mark.parametrize(("name", "array"), NEEDED)
def test_each_array_that_is_missing_is_named(name: str, array: str, tmp_path: Path) -> None:
    dropped = [f"tokens_{scale}" for scale in range(4)] if array == "tokens_0" else [array]
    said = complaint(name, altered(name, tmp_path, **dict.fromkeys(dropped)))
    assert f"'{array}'" in said
    assert " is missing" in said


@pytest.mark.parametrize(("name", "array"), ARRAYS)
def test_each_array_of_another_kind_or_with_an_axis_too_many_is_named(name: str, array: str, tmp_path: Path) -> None:
    with np.load(GOLDEN / name / "golden.npz") as data:
        text, deep = data[array].astype("U5"), data[array].reshape(*data[array].shape, *[1] * 5)
    assert f"array '{array}': is <U5; " in complaint(name, altered(name, tmp_path, **{array: text}))
    assert f"array '{array}': has {deep.ndim} axes" in complaint(name, altered(name, tmp_path, **{array: deep}))


def test_nan_and_steps_without_end_are_refused(tmp_path: Path) -> None:
    wrong = altered("llamagen-c2i", tmp_path, logits=np.full((3, 16, 96), np.nan, np.float32))
    assert complaint("llamagen-c2i", wrong).endswith("array 'logits': holds NaN or Inf (family llamagen)")
    wrong = altered("titok-bert", tmp_path, greedy_steps=np.int64(10**9))
    assert complaint("titok-bert", wrong).endswith("array 'greedy_steps': 1000000000 is not between 1 and 10000")
