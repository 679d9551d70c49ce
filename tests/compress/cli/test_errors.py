"""What a user can get wrong, or a machine can run out of, is one line and exit code 2, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from compress.core.store import Store


@pytest.fixture
def small(checkpoint: Path, small_recipe: Callable[[Path, Path], Path], tmp_path: Path) -> Path:
    """A recipe of one pass on a copy of the checkpoint that a test may harm."""
    shutil.copytree(checkpoint, tmp_path / "model")
    return small_recipe(tmp_path / "model", tmp_path / "small.yaml")


def edit(path: Path, old: str, new: str) -> Path:
    """Replace text in a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("bench:", "bensh:", "unknown key 'bensh'; did you mean 'bench'?"),
        ("held_out", "heldout", "tokens: unknown key 'heldout'; did you mean 'held_out'?"),
        ("ratio: 0.25", "ration: 0.25", "passes[0] prune-ffn: unknown key 'ration'; did you mean 'ratio'?"),
        ("prune-ffn", "prune-fnn", "passes[0]: no pass is called 'prune-fnn'; did you mean 'prune-ffn'?"),
        ("ratio: 0.25", "ratio: 1.25", "passes[0] prune-ffn.ratio: 1.25 is out of range; it must be between 0 and 1"),
        ("ratio: 0.25", "ratio: half", "passes[0] prune-ffn.ratio: 'half' is not a number"),
        ("held_out: 4", "held_out: four", "tokens.held_out: 'four' is not a whole number"),
        ("[1]", "1", "bench.batch: 1 is not a list"),
        ("repeats: 6", "repeats: 5", "bench.repeats: 5 is out of range; it must be between 6 and 10000"),
        (
            "  - prune-ffn: {ratio: 0.25, score: magnitude}",
            "  - export: {target: onnxruntime}",
            "passes: ends in onnx; passes that export belong under engines",
        ),
        (
            "[export: {target: onnxruntime}]",
            "[export: {target: onnxruntime}, quantize: {}]",
            "engines.cpu[1]: quantize takes torch, but what reaches it is onnx; move it before the export",
        ),
        (
            "[export: {target: onnxruntime}]",
            "[quantize: {}]",
            "engines.cpu: ends in torch; an engine needs an export, for example  export: {target: onnxruntime}",
        ),
        ("held_out: 4", "held_out: 400", "tokens: 400 held_out pictures are asked for, but only 297 exist"),
        (
            "source: digits",
            "source: digit",
            "tokens.source: 'digit' is neither a file nor 'digits' or 'emoji'",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line_before_a_weight_is_read(
    small: Path, refused: Callable[..., str], old: str, new: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.models.families.load", lambda *args: pytest.fail("read weights"))
    assert refused("run", edit(small, old, new)) == f"{small}: {text}"


def test_a_missing_checkpoint_is_named(small: Path, refused: Callable[..., str]) -> None:
    line = refused("run", edit(small, "/model}", "/modle}"))
    assert line.startswith(
        f"{small}: model.checkpoint: '{small.parent}/modle' is neither a file or folder nor a shipped model;"
    )
    shutil.move(small.parent / "model" / "model.safetensors", small.parent / "elsewhere")
    small.write_text(small.read_text().replace("/modle}", "/model}"))
    line = refused("run", small, "--store", small.parent / "store", "-o", small.parent / "run")
    assert line == f"{small.parent}/model/model.safetensors: there is no such checkpoint file"


def test_a_truncated_checkpoint_is_named(small: Path, refused: Callable[..., str]) -> None:
    weights = small.parent / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refused("run", small).startswith(f"{weights}: not a readable safetensors file, truncated or damaged")


def test_a_checkpoint_of_other_shapes_names_the_tensor_and_both_shapes(
    small: Path, refused: Callable[..., str]
) -> None:
    config = small.parent / "model" / "config.json"
    value = json.loads(config.read_text())
    value["transformer"]["width"] = 64
    config.write_text(json.dumps(value))
    line = refused("run", small)
    assert line.startswith(f"{small.parent}/model/model.safetensors: tensor '")
    assert "its config says (" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_inf_in_weights_names_the_tensor(small: Path, refused: Callable[..., str], value: float) -> None:
    weights = small.parent / "model" / "model.safetensors"
    state = load_file(weights)
    name = next(name for name, tensor in state.items() if tensor.dim() == 2)
    state[name][0, 0] = value
    save_file(state, weights)
    assert refused("run", small) == (
        f"{weights}: tensor '{name}' holds 1 NaN or Inf values; the checkpoint is unusable"
    )


class Mischief:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_is_no_plain_state_dict_is_refused_and_never_executed(
    small: Path, refused: Callable[..., str], zipped: bool
) -> None:
    mischief = Mischief(small.parent / "executed")
    folder = small.parent / "model"
    (folder / "model.safetensors").unlink()
    if zipped:
        torch.save({"weights": mischief}, folder / "model.pt")
    else:
        (folder / "model.pt").write_bytes(pickle.dumps({"weights": mischief}))
    line = refused("run", small)
    assert line.startswith(f"{folder}/model.pt: ")
    assert "nothing in it was executed" in line
    assert not mischief.path.exists()


@pytest.fixture
def cramped(small: Path) -> Iterator[Path]:
    """The recipe where no file may grow beyond 20 kB any more: a disk that is full, as far as a write can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield small
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(cramped: Path, refused: Callable[..., str]) -> None:
    store = Store(cramped.parent / "store").prepare()
    store.make("done", {"pass": "test"}, lambda folder: {}, print)
    assert refused("run", cramped, "--store", store.root, "-o", cramped.parent / "run", "--skip-preflight") == (
        f"{store.root}: the disk is full; what was finished is kept, free space and run again"
    )
    assert [row["pass"] for row in store.rows()] == ["test"]
    assert list((store.root / "drafts").iterdir()) == []


def test_a_full_disk_is_found_by_the_rehearsal_too(cramped: Path, refused: Callable[..., str]) -> None:
    line = refused("run", cramped, "--store", cramped.parent / "store", "-o", cramped.parent / "run")
    assert "the disk is full" in line


@pytest.mark.slow
def test_a_disk_that_fills_up_while_the_engine_is_published_is_one_line(finished, refused: Callable[..., str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        line = refused("run", finished.recipe, "--store", finished.store, "-o", finished.output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line == f"{finished.output}: the disk is full; what was finished is kept, free space and run again"
    assert (finished.output / "engines" / "cpu" / "manifest.json").exists()


def test_a_store_without_write_permission_is_one_line(
    small: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "locks" not in str(path))  # as root every folder is writable
    store = small.parent / "store"
    assert refused("run", small, "--store", store) == (
        f"store {store}: cannot be written (Permission denied); choose another with --store"
    )


def test_a_file_that_may_not_be_read_is_one_line(
    small: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.open

    def denied(path: str | Path, *arguments: int, **options: int) -> int:
        if path == small:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(small))
        return usual(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denied)  # as root every file is readable
    assert refused("run", small) == f"{small}: cannot be read (Permission denied)"


def test_ctrl_c_exits_with_130_and_says_what_is_kept(
    small: Path, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compress.running.pipeline.run", stop)
    result = invoke("run", small)
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted; what was finished is kept, and the next run goes on from there"


def start(*arguments: object, program: tuple[str, ...] = ("-m", "compress")) -> subprocess.Popen[str]:
    """A real run in its own process."""
    command = [sys.executable, *program, "run", *map(str, arguments), "--skip-preflight"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# `compress` in a process that tells each step of a training and is sent a real SIGINT at one of them.
WATCHED = """
import os, signal, sys
from compress.cli import main
from compress.training.loop import Schedule
stop, rate = int(sys.argv.pop(1)), Schedule.rate
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
def watched(self, step):
    print("step", step, file=sys.stderr)
    if step == stop:
        os.kill(os.getpid(), signal.SIGINT)
    return rate(self, step)
Schedule.rate = watched
main()
"""


def content(store: Path) -> dict[str, dict[str, list]]:
    """Key and hash of every file that the store's artifacts hold."""
    entries = (json.loads(path.read_text()) for path in (store / "artifacts").glob("*/entry.json"))
    return {entry["key"]: entry["files"] for entry in entries}


@pytest.mark.slow
def test_ctrl_c_within_distill_is_resumed_and_ends_with_the_same_bytes(finished) -> None:
    before = content(finished.store)
    for folder in (finished.store / "artifacts").iterdir():
        made_by = json.loads((folder / "entry.json").read_text())["made_by"]
        if made_by["pass"] == "distill":
            checkpoint = finished.store / "work" / folder.name / "distill.pt"
        if made_by["pass"] in ("distill", "quantize"):
            shutil.rmtree(folder)
    said = []
    for stop, code in ((40, 130), (-1, 0)):
        program = ("-c", WATCHED, str(stop))
        run = start(finished.recipe, "--store", finished.store, "-o", finished.output, program=program)
        said.append(run.communicate()[1].splitlines())
        assert run.returncode == code, said
        assert checkpoint.exists() == (code == 130)
    assert said[0][-1] == "interrupted; what was finished is kept, and the next run goes on from there"
    assert not any("Traceback" in line for line in said[0])
    steps = [[line for line in lines if line.startswith("step ")] for lines in said]
    assert (steps[0][-1], steps[1][0], steps[1][-1]) == ("step 40", "step 40", "step 89")
    assert content(finished.store) == before
    assert not checkpoint.parent.exists()


@pytest.mark.slow
def test_two_runs_at_once_share_a_store_and_make_each_artifact_once(small: Path) -> None:
    store, output = small.parent / "store", small.parent / "run"
    runs = [start(small, "--store", store, "-o", output) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    for name in ("reference lowered", "prune-ffn", "prune-ffn lowered"):
        lines = [line for text in said for line in text.splitlines() if f" {name}: " in line]
        assert sorted(line.split()[-2] for line in lines) == ["made", "reused"], said
    assert len(content(store)) == 3
    assert list((store / "drafts").iterdir()) == []
    assert json.loads((output / "report.json").read_text())["verdict"]["passed"]
