"""Recipes and gates files that are no plain YAML, are huge, or say nothing: one line that names the file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LEVELS = ", ".join(f"&a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
MERGES = "".join(f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 10)}]}}\n" for n in range(1, 9))
TEXTS = {
    "a date that is none": "seed: 2001-99-99",
    "a date": "seed: 2001-12-31",
    "a time": "seed: 12:30:45",
    "a long number": f"seed: {'9' * 4301}",
    "a long hexadecimal number": f"seed: 0x{'f' * 5000}",
    "an integer tag": "seed: !!int x",
    "an integer tag alone": "!!int",
    "a float tag": "seed: !!float x",
    "a truth tag": "seed: !!bool x",
    "a binary tag": "seed: !!binary x",
    "a time tag": "seed: !!timestamp x",
    "a mapping tag on a list": "model: !!map [a]",
    "a set tag on a list": "model: !!set [a]",
    "an ordered mapping tag on a word": "model: !!omap a",
    "a pairs tag on a word": "model: !!pairs a",
    "a tag of Python": "model: !!python/object/apply:os.system [true]",
    "deep lists": "[" * 1000,
    "deep mappings": "{a: " * 1000,
    "deep sequences of lines": "- " * 1000,
    "a bomb of aliases": f"model: {{checkpoint: digits}}\nseed: [&a0 [{','.join('x' * 10)}], {LEVELS}]",
    "a bomb of merges": f"k0: &k0 {{a: 1}}\n{MERGES}",
    "an alias of itself": "seed: &a [*a]",
    "a merge of itself": "model: &a {<<: *a}",
    "an alias of nothing": "seed: *a",
    "a key that is a list": "? [a]\n: b",
    "a key twice": "seed: 1\nseed: 2",
    "a NUL": "seed: \x00",
    "a control character": "seed: \x07",
    "a half of a surrogate pair": 'seed: "\\ud800"',
    "two documents": "seed: 1\n---\nseed: 2",
    "another version of YAML": "%YAML 9.9\n---\nseed: 1",
    "a list": "[seed, 1]",
    "a word": "seed",
    "no number": "seed: .nan",
    "a long unknown key": f"{'k' * 100_000}: 1",
    "a long value": f"seed: {'v' * 100_000}",
    "many lines in a value": "seed: |\n" + "  line\n" * 50,
}


def doors(path: Path, corpus: Path) -> dict[str, tuple[object, ...]]:
    """Every verb that reads YAML."""
    model, tokens = corpus / "model", corpus / "tokens.npz"
    return {
        "plan": ("plan", path),
        "run": ("run", path, "-o", path.parent / "run", "--store", path.parent / "store"),
        "train": ("train", path, "-o", path.parent / "trained"),
        "gates": ("verify", model, model, "--tokens", tokens, "--held-out", 4, "--gates", path),
        "model": ("generate", path, "--labels", 1, "-o", path.parent / "drawn.png"),
    }


@pytest.mark.parametrize("door", ["plan", "train", "gates", "run", "model"])
@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_no_plain_yaml_is_refused_in_one_line(
    kind: str, door: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    path = here / "wrong.yaml"
    path.write_bytes(TEXTS[kind].encode("utf-8", "surrogatepass"))
    begun = time.perf_counter()
    refused(*doors(path, corpus)[door], named=("wrong.yaml",))
    assert time.perf_counter() - begun < 10


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80", b"seed: \xed\xa0\x80", b"PK\x03\x04" * 100, b"\x00" * 1000])
def test_bytes_that_are_no_text_are_refused(data: bytes, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    path = here / "wrong.yaml"
    path.write_bytes(data)
    for arguments in doors(path, corpus).values():
        refused(*arguments, named=("wrong.yaml",))


@pytest.mark.parametrize("door", ["plan", "train", "gates"])
def test_a_file_of_two_megabytes_is_refused(door: str, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    path = here / "wrong.yaml"
    path.write_text("# remark\n" * 250_000)
    refused(*doors(path, corpus)[door], named=("wrong.yaml",))


@pytest.mark.parametrize("door", ["plan", "train", "gates"])
@pytest.mark.parametrize("kind", ["device", "fifo", "link to a device"])
def test_a_device_or_a_fifo_is_refused_unread(
    kind: str, door: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    path = Path("/dev/zero") if kind == "device" else here / "odd.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind != "device":
        path.symlink_to("/dev/zero")
    arguments = [path if each == here / "r" else each for each in doors(here / "r", corpus)[door]]
    refused(*arguments, named=(path,))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("batch: [1]", "batch: []", "batch"),
        ("threads: 1", "threads: 0", "threads"),
        ("threads: 1", "threads: 1000000000", "threads"),
        ("repeats: 6", "repeats: 1.0", "repeats"),
        ("repeats: 6", "repeats: true", "repeats"),
        ("batch: [1]", "batch: [1, 99999999999999999999]", "batch"),
        ("held_out: 8", "held_out: 99999999999999999999", "held_out"),
        ("held_out: 8", "held_out: -8", "held_out"),
        ("calibration: 8", "calibration: .inf", "calibration"),
        ("target: onnxruntime", "tarjet: onnxruntime", "tarjet"),
        ("engines:", "seed: 99999999999999999999\nengines:", "seed"),
    ],
)
def test_a_value_out_of_range_names_its_key(
    old: str, new: str, named: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    text = (corpus / "tiny.yaml").read_text()
    assert old in text
    (here / "wrong.yaml").write_text(text.replace(old, new))
    refused("plan", here / "wrong.yaml", named=("wrong.yaml", named))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("learning_rate: 1.0e+308", "learning_rate"),
        ("learning_rate: .inf", "learning_rate"),
        ("batch: 4611686018427387904", "batch"),
        ("temperature: 1.0e+308", "temperature"),
        ("temperature: 1.0e-320", "temperature"),
        ("temperature: 0", "temperature"),
        ("weight_decay: 1.0e+308", "weight_decay"),
    ],
)
def test_a_setting_that_no_training_can_have_is_refused(
    settings: str, named: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    step = f"engines:\npasses:\n  - distill: {{steps: 2, validate_every: 1, {settings}}}\nengines:"
    text = (corpus / "tiny.yaml").read_text().replace("engines:", step.removeprefix("engines:\n"))
    (here / "wrong.yaml").write_text(text)
    refused("run", here / "wrong.yaml", "--skip-preflight", "-o", here / "run", named=("wrong.yaml", named))


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "{}", "null", "---\n", "kl:\n", "decide: estimate", "unmeasured: kept", "speedup_batch: 1"],
)
def test_a_gates_file_without_a_gate_does_not_say_that_every_gate_holds(
    text: str, corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    (here / "gates.yaml").write_text(text)
    refused(*doors(here / "gates.yaml", corpus)["gates"], named=("gates.yaml",))


@pytest.mark.parametrize(
    "text", ["kl: .nan", "kl: .inf", "kl: -1", "kl: nan%", "kl: true", "kl: [1]", "agreement: 2", "lk: 1"]
)
def test_a_gate_that_is_no_limit_is_refused(text: str, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    (here / "gates.yaml").write_text(text)
    refused(*doors(here / "gates.yaml", corpus)["gates"], named=("gates.yaml", text.split(":")[0]))
