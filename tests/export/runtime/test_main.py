"""The runtime's own command draws what the main command draws, and says what is wrong in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tensorrt_stand_in import with_plans

from compress.cli import main as compress
from export.runtime import __main__ as command
from export.runtime.engine import Engine


@pytest.fixture(scope="session")
def engine(exported: Callable, engine_of: Callable) -> Engine:
    """A small causal engine of ten classes."""
    return engine_of(exported("rotary"))


@pytest.fixture(scope="session")
def masked(exported: Callable, engine_of: Callable) -> Engine:
    """A small masked engine without classes."""
    return engine_of(exported("masked without classes"))


@pytest.fixture
def refused(engine: Engine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The one line that the command says of wrong arguments; it leaves with 2."""

    def run(*arguments: object, folder: Path = engine.folder) -> str:
        words = [str(each) for each in (folder, "-o", tmp_path / "out.png", *arguments)]
        try:
            code = command.main(words)
        except SystemExit as end:  # as argparse leaves
            code = end.code
        assert code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out.png").exists()
        return line.removeprefix("error: ")

    return run


def test_an_engine_for_tensorrt_without_a_plan_can_be_refused(exported, engine_of, refused, tmp_path) -> None:
    folder = engine_of(exported("rotary", "tensorrt")).folder
    assert refused("--labels", 1, "--require-plan", folder=folder) == (
        f"{folder}: holds no plan; build one with  build-engine"
    )
    assert command.main([str(folder), "--labels", "1", "-o", str(tmp_path / "out.png")]) == 0


def test_plans_that_do_not_run_here_are_one_line(exported, refused, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with_plans(exported("rotary", "tensorrt")).save(tmp_path)
    reason = f"{tmp_path}: TensorRT for RTX is not installed; pip install tensorrt-rtx-cu13==1.7.1.116, on a machine"
    assert refused("--labels", 1, "--require-plan", folder=tmp_path).startswith(reason)
    assert command.main([str(tmp_path), "--labels", "1", "-o", str(tmp_path / "out.png")]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {reason}")
    assert line.endswith("; ONNX Runtime draws instead")
    done = CliRunner().invoke(compress, ["generate", str(tmp_path), "--labels", "1", "-o", str(tmp_path / "more.png")])
    assert done.exit_code == 0, done.output
    assert [each for each in done.output.splitlines() if each.startswith("warning: ")] == [line]


@pytest.mark.parametrize("verb", ["generate", "verify", "bench", "bisect"])
def test_every_command_that_opens_engines_can_require_their_plans(exported, engine, tmp_path, verb) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    exported("rotary", "tensorrt").save(folder)
    words = {"generate": ["--labels", "1", "-o", str(tmp_path / "out.png")], "bench": []}
    others = [] if verb in words else [str(engine.folder)]
    given = [verb, *others, str(folder), "--require-plan", *words.get(verb, ["--tokens", "digits"])]
    done = CliRunner().invoke(compress, given)
    assert done.exit_code == 2
    assert done.output.splitlines() == [f"error: {folder}: holds no plan; build one with  build-engine"]
    done = CliRunner().invoke(compress, [*given, "--device", "cpu"])
    assert done.output.startswith("error: --require-plan: on a --device that is named ONNX Runtime runs engines")


SETTINGS = {
    "causal": ("--labels", "3,0,9", "--seed", "5", "--cfg-scale", "2", "--temperature", "0.9", "--top-k", "8"),
    "masked": ("--count", "2", "--steps", "3", "--top-p", "0.9", "--batch", "1", "--threads", "1"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_file_is_that_of_the_main_command_byte_by_byte(kind, engine, masked, tmp_path, capsys) -> None:
    folder = str((engine if kind == "causal" else masked).folder)
    mine, theirs = tmp_path / "mine.png", tmp_path / "theirs.png"
    assert command.main([folder, *SETTINGS[kind], "-o", str(mine)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{mine}: {3 if kind == 'causal' else 2} pictures in ")
    assert said.endswith(" images/s\n")
    done = CliRunner().invoke(compress, ["generate", folder, *SETTINGS[kind], "-o", str(theirs)])
    assert done.exit_code == 0, done.output
    assert mine.read_bytes() == theirs.read_bytes()


def test_a_file_of_each_picture_is_that_of_the_main_command_byte_by_byte(engine, tmp_path, capsys) -> None:
    words = [str(engine.folder), "--labels", "3,0", "--format", "jpeg", "--out-dir"]
    assert command.main([*words, str(tmp_path / "mine"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == [str(tmp_path / "mine" / f"000{index}-{label}-seed0.jpg") for index, label in enumerate((3, 0))]
    done = CliRunner().invoke(compress, ["generate", *words, str(tmp_path / "theirs")])
    assert done.exit_code == 0, done.output
    for file in files:
        assert Path(file).read_bytes() == (tmp_path / "theirs" / Path(file).name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--grid", "0"), "--grid '0': is no grid like 4x3 (columns x rows), or 4 (columns)"),
        (("--labels", "1,2,3", "--grid", "1x2"), "--grid 1x2: has room for 2 of 3 pictures"),
        (("--name", "{index}"), "--name: is of files in --out-dir"),
        ((), "--labels: needed, one of 0 to 9 for each picture, separated by commas"),
        (("--labels", "3,x"), "--labels: '3,x' is not a list of whole numbers like 3,1,4"),
        (("--labels", "11"), "--labels: label 11 is not a class; the model draws 0 to 9 (10 is unconditional)"),
        (("--count", "2"), "--count: this model draws classes; give a label for each picture and leave it out"),
        (("--features", "f.npy"), "--features: this model draws no texts; leave it out"),
        (("--labels", "1", "--top-p", "nan"), "top_p nan: must be a number"),
        (("--labels", "1", "--steps", "3"), "steps 3: this model draws token by token; leave it out"),
        (("--labels", "1", "--seed", "-1"), "seed -1: must be a whole number from 0 to 18446744073709551615"),
        (("--labels", "1", "--batch", "0"), "argument --batch: 0 is out of range; it must be at least 1"),
        (("--labels", "1", "--top-k", "x"), "argument --top-k: invalid int value: 'x'"),
        (("--label", "1"), "unrecognized arguments: --label 1"),
    ],
)
def test_wrong_arguments_are_one_line(refused, arguments, said) -> None:
    assert refused(*arguments).startswith(said)


def test_a_model_without_classes_takes_no_labels(refused, masked) -> None:
    line = refused("--labels", "1", folder=masked.folder)
    assert line == "--labels: this model knows no classes; give --count instead"


def test_a_folder_that_is_no_engine_is_one_line(refused, tmp_path) -> None:
    assert refused("--labels", "1", folder=tmp_path / "none").startswith(f"{tmp_path / 'none'}")


def test_a_place_that_cannot_be_written_is_found_before_the_work(engine, capsys, tmp_path) -> None:
    for output in (tmp_path, tmp_path / "none" / "out.png"):
        assert command.main([str(engine.folder), "--labels", "1", "-o", str(output)]) == 2
        assert capsys.readouterr().err == f"error: --output: {output}: name a file in a folder that exists\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyError("x"), 70, "error: unexpected KeyError: 'x'; --debug shows where\n"),
        (OSError(28, "No space left on device", "out.png"), 2, "error: out.png: No space left on device\n"),
    ],
)
def test_every_other_end_has_the_exit_code_of_the_main_command(raised, code, said, monkeypatch, capsys) -> None:
    def fails(arguments: object) -> int:
        raise raised

    monkeypatch.setattr(command, "drawn", fails)
    assert command.main(["engine", "-o", "out.png"]) == code
    assert capsys.readouterr().err == said


def test_features_of_texts_are_read_strictly(exported, engine_of, refused, tmp_path, capsys) -> None:
    folder, file = engine_of(exported("text")).folder, tmp_path / "f.npy"
    assert refused("--labels", "1", folder=folder) == "this model draws texts: give --features FILE.npy, not --labels"
    assert refused("--features", tmp_path, folder=folder) == f"--features: {tmp_path}: is not a regular file"
    assert refused("--features", file, folder=folder).startswith(f"--features: {file}: not a readable .npy file (")
    np.save(file, np.zeros((2, 5)))
    said = f"--features: {file}: holds float64 (2, 5); floats (pictures, length, width) are needed"
    assert refused("--features", file, folder=folder) == said
    np.save(file, np.random.default_rng(0).normal(size=(2, 5, 6)))
    assert command.main([str(folder), "--features", str(file), "-o", str(tmp_path / "t.png")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 't.png'}: 2 pictures in ")
