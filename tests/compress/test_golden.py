"""Twelve published formats compute what their original implementations did: in PyTorch, step by step, in an engine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from compress import golden
from compress.models.families import Source
from compress.settings import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
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


@pytest.mark.parametrize("name", FORMATS)
def test_every_array_of_a_golden_file_agrees(name: str) -> None:
    rows = golden.check(source(name), GOLDEN / name / "golden.npz")
    assert [row for row in rows if not row.agrees] == []
    with np.load(GOLDEN / name / "golden.npz") as arrays:
        outputs = {each for each in arrays.files if each.startswith(("logits", "greedy_", "halton", "decoded"))}
        outputs |= {each for each in arrays.files if each in ("var_input", "encoded_codes")}
    settings = {"greedy_cfg", "greedy_cfg_scale", "greedy_w", "greedy_steps"}
    settings |= {"greedy_guidance_scale", "greedy_guidance_pow"}
    assert {row.array for row in rows} == outputs - settings, "no array is left out"
    for array in {row.array for row in rows}:
        assert {row.where for row in rows if row.array == array} == WAYS.get(array, ELSE)


def test_a_class_token_that_is_not_rotated_away_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from compress.models.families import llamagen

    read = llamagen.architecture
    monkeypatch.setattr(llamagen, "architecture", lambda c: replace(read(c), rotary_prefix="identity"))
    rows = golden.check(source("llamagen-c2i"), GOLDEN / "llamagen-c2i" / "golden.npz")
    assert all(row.largest > 100 * row.allowed for row in rows if row.array == "logits")


def test_one_wrong_weight_is_found(tmp_path: Path) -> None:
    copy = tmp_path / "halton"
    shutil.copytree(GOLDEN / "halton-maskgit", copy)
    state = load_file(copy / "checkpoint.safetensors")
    state["transformer.layers.1.ff.w2.weight"][3, 5] += 0.5
    save_file(state, copy / "checkpoint.safetensors")
    rows = golden.check(source("halton-maskgit", copy), copy / "golden.npz")
    assert {row.agrees for row in rows if row.array == "logits"} == {False}
    assert next(row.agrees for row in rows if row.array == "halton_order")


def test_without_a_golden_file_the_forms_are_compared_with_each_other() -> None:
    rows = golden.check(source("imagegpt"), None)
    assert {row.where for row in rows} == {"torch, step by step", "engine", "engine, step by step"}
    assert all(row.agrees for row in rows)


def test_a_golden_file_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="family llamagen needs it"):
        golden.check(source("llamagen-c2i"), GOLDEN / "rar" / "golden.npz")
    (tmp_path / "golden.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable"):
        golden.check(source("llamagen-c2i"), tmp_path / "golden.npz")
