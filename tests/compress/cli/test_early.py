"""What is wrong is said before anything heavy is imported: of every verb its help, unknown files and wrong values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compress.cli import main
from compress.core.outlines import UnclearError, outline
from compress.core.settings import InputError
from compress.core.strict_yaml import read_yaml
from compress.recipe import shipped
from compress.recipe.early import check_recipe, check_training, class_of, pass_names

HEAVY = ("torch", "onnx", "onnxruntime", "scipy", "transformers", "matplotlib")
PROGRAM = f"""
import contextlib, io, json, sys
from compress.cli import main
lines = []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(words, prog_name="compress")
        except SystemExit as end:
            code = end.code or 0
    lines.append([code, said.getvalue(), [name for name in {HEAVY!r} if name in sys.modules]])
print(json.dumps(lines))
"""


def verbs(group: click.Group, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every verb by its words."""
    found = []
    for name, command in group.commands.items():
        found.append((*before, name))
        if isinstance(command, click.Group):
            found += verbs(command, (*before, name))
    return found


def ended(lines: list[list[str]]) -> list[tuple[int, str, list[str]]]:
    """Exit code, what was said, and which heavy modules were in after each command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)], capture_output=True, text=True, check=True
    )
    return [tuple(each) for each in json.loads(done.stdout)]


def test_help_and_an_unknown_option_of_every_verb_import_nothing_heavy() -> None:
    lines = [[*words, last] for words in verbs(main) for last in ("--help", "--no-such-option")]
    for line, (code, said, heavy) in zip(lines, ended(lines), strict=True):
        assert (code, heavy) == (0 if line[-1] == "--help" else 2, []), (line, said)


def test_every_verb_has_json() -> None:
    for words in verbs(main):
        command: click.Command = main
        for word in words:
            command = command.commands[word]  # type: ignore[attr-defined]
        if not isinstance(command, click.Group):
            assert any("--json" in each.opts for each in command.params), words


def test_unknown_files_and_wrong_values_import_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "ratio.yaml").write_text("model: {checkpoint: digits}\npasses:\n  - prune-heads: {ratio: 7}\n")
    (tmp_path / "key.yaml").write_text("model: {checkpoint: digits}\npasses:\n  - prune-heads: {rato: 0.1}\n")
    (tmp_path / "train.yaml").write_text("model: {grid: [8, 8], vocabulary: 1}\ntrain: {steps: 3}\n")
    absent = "no-such-file"
    lines = [
        ["run", f"{absent}.yaml"],
        ["run", f"{tmp_path}/ratio.yaml"],
        ["run", f"{tmp_path}/key.yaml"],
        ["run", "quickstart", "--model", absent],
        ["plan", f"{absent}.yaml"],
        ["plan", f"{tmp_path}/ratio.yaml"],
        ["sensitivity", f"{absent}.yaml"],
        ["sensitivity", f"{tmp_path}/key.yaml"],
        ["search", f"{absent}.yaml"],
        ["train", f"{absent}.yaml", "-o", "x"],
        ["train", f"{tmp_path}/train.yaml", "-o", "x"],
        ["tokens", absent, "-o", "x.npz"],
        ["tokens", absent, "-o", "x.txt"],
        ["verify", "digits", absent],
        ["verify", "digits", "digits", "--tokens", absent],
        ["verify", "digits", "digits", "--gates", absent],
        ["bisect", "digits", absent],
        ["bench", absent],
        ["bench", "digits", "--batch", "x"],
        ["profile", absent],
        ["to-optimum", absent, "-o", "x"],
        ["export-triton", absent, "-o", "x"],
        ["check-tensorrt", f"{absent}.onnx"],
        ["report", absent],
        ["recipes", absent],
        ["schema", absent],
        ["passes", absent],
        ["models", "inspect", absent],
        ["models", "check", absent],
        ["store", "gc", "--max-size", "x"],
    ]
    for line, (code, said, heavy) in zip(lines, ended(lines), strict=True):
        assert (code, heavy) == (2, []), (line, said)
        assert "no-such-file" in said or "out of range" in said or "rato" in said or "x" in said


def test_wrong_names_in_options_import_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    absent, features = f"{tmp_path}/no-such-file", ["-o", f"{tmp_path}/f.npy"]
    expected = {
        "--budget: unknown key 'nll_drif'; did you mean 'nll_drift'?": ["search", "digits", "--budget", "nll_drif=1%"],
        "--budget.nll_drift: 3.0 is out of range; it must be between 0 and 1": [
            "search", "digits", "--budget", "nll_drift=3",
        ],
        "--budget.size: '9XB' is not a number": ["search", "digits", "--budget", "size=9XB"],
        "--minimize: no quantity is called 'sze'; did you mean 'size'?": ["search", "digits", "--minimize", "sze",
                                                                           "--budget", "kl=1"],
        "--minimize agreement: is better the higher it is": ["search", "digits", "--minimize", "agreement", "--budget",
                                                             "kl=1"],
        "--formats: 'int9' is no format; write float, or int8, int4, int2": [
            "sensitivity", "quickstart", "--formats", "int8,int9",
        ],
        "--capability: 1.0 is no compute capability that TensorRT for RTX builds for; it knows 7.5": [
            "check-tensorrt", f"{tmp_path}/model.onnx", "--capability", "1.0",
        ],
        "no-such-file: there is no such folder; a pipeline holds text_encoder and tokenizer": [
            "models", "features", absent, "a cat", *features,
        ],
        "text_encoder: there is no such folder; a pipeline holds text_encoder": [
            "models", "features", str(tmp_path), "--onnx", f"{tmp_path}/e.onnx",
        ],
        "give texts and -o FILE.npy, or --onnx FILE, or both": ["models", "features", absent, "a cat"],
    }  # fmt: skip
    for (text, line), (code, said, heavy) in zip(expected.items(), ended([*expected.values()]), strict=True):
        assert (code, heavy) == (2, []), (line, said)
        assert text in said, (line, said)


def test_the_early_check_says_what_the_full_one_says(tmp_path: Path) -> None:
    from compress.recipe import recipe

    for setting in ("ratio: 7", "rato: 0.1", "ratio: 0.1, scope: all", "ratio: many"):
        path = tmp_path / "r.yaml"
        path.write_text(
            f"model: {{checkpoint: digits}}\npasses:\n  - prune-heads: {{{setting}}}\n"
            "engines: {cpu: [export: {target: onnxruntime}]}\n"
        )
        with pytest.raises(InputError) as early:
            check_recipe(read_yaml(path), path)
        with pytest.raises(InputError) as full:
            recipe.load(path)
        assert str(early.value) == str(full.value)


def test_every_shipped_recipe_passes_the_early_check_and_every_pass_has_an_outline() -> None:
    for each in shipped.listed():
        path = shipped.ROOT / f"{each.name}.yaml"
        (check_recipe if each.verb == "run" else check_training)(read_yaml(path), path)
    for name in pass_names():
        module = name.replace("-", "_")
        path = Path(shipped.ROOT).parent / "passes" / f"{module}.py"
        if found := class_of(path):
            assert outline(f"compress.passes.{module}", found)
    with pytest.raises(UnclearError):
        outline("compress.no_such_module", "Nothing")
