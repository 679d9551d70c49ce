"""Twelve published formats compute what their original implementations did: in PyTorch, step by step, in an engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from compress.core.settings import InputError
from compress.models.families import Source
from compress.verifying import golden

GOLDEN = Path(__file__).parents[2] / "data" / "golden"
TOKENIZER = {"var": "var-vqvae"}
FORMATS = (
    "amused", "halton-maskgit", "imagegpt", "llamagen-c2i", "llamagen-t2i", "llamagen-vq", "rar", "rar-vqgan",
    "taming-mingpt", "titok-bert", "var", "var-vqvae",
)  # fmt: skip
# What every array is computed by; pictures and codes have no steps.
WAYS = {
    "logits": {"torch", "torch, step by step", "engine", "engine, step by step"},
    "halton_order": {"order"},
    "var_input": {"torch"},
}
ELSE = {"torch", "engine"}


def source(name: str, folder: Path | None = None) -> Source:
    """A golden checkpoint, or a copy of it."""
    tokenizer = str(GOLDEN / TOKENIZER[name]) if name in TOKENIZER else ""
    return Source(str(folder or GOLDEN / name), tokenizer=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_every_array_of_a_golden_file_agrees(name: str) -> None:
    rows = golden.compare(source(name), GOLDEN / name / "golden.npz")
    assert [row for row in rows if not row.agrees] == []
    with np.load(GOLDEN / name / "golden.npz") as arrays:
        outputs = {each for each in arrays.files if each.startswith(("logits", "greedy_", "halton", "decoded"))}
        outputs |= {each for each in arrays.files if each in ("var_input", "encoded_codes")}
    settings = {"greedy_cfg", "greedy_cfg_scale", "greedy_w", "greedy_steps"}
    settings |= {"greedy_guidance_scale", "greedy_guidance_pow"}
    assert {row.array for row in rows} == outputs - settings, "no array is left out"
    for array in {row.array for row in rows}:
        assert {row.where for row in rows if row.array == array} == WAYS.get(array, ELSE)


@pytest.mark.slow
def test_a_class_token_that_is_not_rotated_away_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from compress.models.families.llamagen import Llamagen

    read = Llamagen.architecture
    monkeypatch.setattr(Llamagen, "architecture", lambda f, c: replace(read(f, c), rotary_prefix="identity"))
    rows = golden.compare(source("llamagen-c2i"), GOLDEN / "llamagen-c2i" / "golden.npz")
    assert all(row.largest > 100 * row.allowed for row in rows if row.array == "logits")


def test_one_wrong_weight_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "halton"
    shutil.copytree(GOLDEN / "halton-maskgit", copy)
    state = load_file(copy / "checkpoint.safetensors")
    state["transformer.layers.1.ff.w2.weight"][3, 5] += 0.5
    save_file(state, copy / "checkpoint.safetensors")
    rows = golden.compare(source("halton-maskgit", copy), copy / "golden.npz")
    assert {row.agrees for row in rows if row.array == "logits"} == {False}
    assert next(row.agrees for row in rows if row.array == "halton_order")


def test_without_a_golden_file_the_forms_are_compared_with_each_other() -> None:
    rows = golden.compare(source("imagegpt"), None)
    assert {row.where for row in rows} == {"torch, step by step", "engine", "engine, step by step"}
    assert all(row.agrees for row in rows)


def test_a_golden_file_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"array 'cond' is missing; it holds 'tokens', .* \(family llamagen\)"):
        golden.compare(source("llamagen-c2i"), GOLDEN / "rar" / "golden.npz")
    (tmp_path / "golden.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable"):
        golden.compare(source("llamagen-c2i"), tmp_path / "golden.npz")
    with pytest.raises(InputError, match="the family reference is compared without a golden file; leave it out"):
        golden.compare(Source("digits"), GOLDEN / "rar" / "golden.npz")


def altered(name: str, folder: Path, **changes: np.ndarray | None) -> Path:
    """A golden file with some arrays replaced, or left out."""
    with np.load(GOLDEN / name / "golden.npz") as data:
        arrays = {**{each: data[each] for each in data.files}, **changes}
    np.savez(folder / "golden.npz", **{each: array for each, array in arrays.items() if array is not None})
    return folder / "golden.npz"


def complaint(name: str, path: Path) -> str:
    """What a check says of a golden file, on one line."""
    with pytest.raises(InputError) as caught:
        golden.compare(source(name), path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("llamagen-c2i", {"tokens": np.full((3, 15), 96)}, "array 'tokens' holds 96; the model knows 0 to 95"),
        ("llamagen-c2i", {"tokens": np.full((3, 15), -1)}, "array 'tokens' holds -1; the model knows 0 to 95"),
        ("llamagen-c2i", {"cond": np.array([0, 1, 11])}, "array 'labels' holds 11; the model knows 0 to 10"),
        ("llamagen-c2i", {"cond": np.zeros(3)}, "array 'cond' is float64; classes are whole numbers"),
        ("llamagen-c2i", {"tokens": np.zeros((3, 16), int)}, "has 16 tokens for each picture; the model reads at"),
        ("llamagen-c2i", {"tokens": np.zeros((2, 15), int)}, "array 'tokens' is of 2 pictures, 'logits' of 3"),
        ("llamagen-c2i", {"greedy_cfg_scale": np.float64(-1)}, "cfg_scale -1.0: must be at least 0"),
        ("llamagen-c2i", {"logits": np.zeros((3, 16, 9), np.float32)}, "logits: is (3, 16, 9); the model computes"),
        ("llamagen-c2i", {"greedy_tokens": np.zeros((3, 9), int)}, "greedy_tokens: is (3, 9); the model computes"),
        ("llamagen-t2i", {"cond": np.zeros((3, 120, 23))}, "features are (3, 120, 23); the model reads (3, 120, 24)"),
        ("llamagen-t2i", {"cond": np.zeros(3, int)}, "features are None; the model reads (3, 120, 24)"),
        ("imagegpt", {"tokens": np.zeros((3, 0), int)}, "array 'tokens' has no tokens"),
        ("halton-maskgit", {"tokens": np.zeros((3, 7, 8), int)}, "has 56 tokens for each picture; the model reads 64"),
        ("halton-maskgit", {"greedy_steps": np.int64(0)}, "array 'greedy_steps': 0 is not between 1 and 10000"),
        ("var", {"tokens_1": np.zeros((1, 4), int)}, "array 'tokens_1' is of 1 pictures, 'logits' of 2"),
        ("llamagen-vq", {"codes": np.full((2, 16), 64)}, "array 'codes' holds 64; the model knows 0 to 63"),
        ("llamagen-vq", {"codes": np.zeros((2, 15), int)}, "has 15 tokens; the tokenizer's pictures 16"),
        ("llamagen-vq", {"image": np.zeros((2, 3, 8, 9), np.float32)}, "array 'image' is (2, 3, 8, 9)"),
        ("llamagen-vq", {"codes": None}, "array 'codes' is missing; 'decoded' was computed of it"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_of_this_model_are_refused(name: str, changes: dict, said: str, tmp_path: Path) -> None:
    assert said in complaint(name, altered(name, tmp_path, **changes))


def test_an_unknown_key_is_refused_for_a_tokenizer_too() -> None:
    with pytest.raises(InputError, match="llamagen-vq reads no key 'codebook_l2'; did you mean 'codebook_l2_norm'"):
        golden.compare(Source(str(GOLDEN / "llamagen-vq"), config={"codebook_l2": True}), None)


def test_a_cut_golden_file_and_a_changed_byte_are_refused(tmp_path: Path) -> None:
    whole = (GOLDEN / "llamagen-c2i" / "golden.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz: not a readable zip archive" in complaint("llamagen-c2i", tmp_path / "cut.npz")
    changed = bytearray(whole)
    changed[whole.index(b"logits.npy") + 2000] ^= 255
    (tmp_path / "changed.npz").write_bytes(changed)
    assert "changed.npz: array 'logits': not readable" in complaint("llamagen-c2i", tmp_path / "changed.npz")
