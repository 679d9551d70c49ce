"""`compress train` in several processes, which torchrun or the command itself starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

WAIT_S = 120
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
COMPRESS = ["-m", "compress", "train"]


@pytest.fixture
def recipe(tmp_path: Path, tiny_tokens) -> Path:
    """A recipe of so many short steps that progress is said, every ten seconds, before they are done."""
    tiny_tokens.save(tmp_path / "t.npz")
    path = tmp_path / "train.yaml"
    path.write_text(
        f"name: mini\ntokens: {tmp_path}/t.npz\n"
        "model: {grid: [8, 8], vocabulary: 17, classes: 10, width: 16, layers: 1, heads: 2, head_width: 8, ffn: 16}\n"
        "train: {steps: 4000, batch: 8, validate_every: 1000, threads: 1}\n"
    )
    return path


def begun(words: list[object], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([str(word) for word in words], stdout=out, stderr=log, env=environment)


def workers(pid: int) -> list[int]:
    """The processes that train: children of a process, in the order in which they began."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and (b"spawn_main" in words or b"compress" in words):
            found.append(int(folder.name))
    return sorted(found)


def steps_done(folder: Path) -> bool:
    """Whether the training has said how far it is."""
    return b" of 4000" in (folder / "log").read_bytes()


def held_out(folder: Path) -> float:
    found: float = json.loads((folder / "training.json").read_text())["held_out_nll"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "--on"])
def test_a_training_goes_on_when_one_of_its_processes_is_killed(
    recipe: Path, tmp_path: Path, launcher: str, invoke: Callable[..., Result]
) -> None:
    assert invoke("train", recipe, "-o", tmp_path / "one").exit_code == 0
    if launcher == "torchrun":
        words = [*TORCHRUN, "--max-restarts", "3", *COMPRESS, recipe, "-o", tmp_path / "two"]
    else:
        words = [sys.executable, *COMPRESS, recipe, "-o", tmp_path / "two", "--on", "torchrun:2"]
    process = begun(words, tmp_path)
    ends = time.monotonic() + WAIT_S
    while not steps_done(tmp_path):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < ends
        time.sleep(0.02)
    os.kill(workers(process.pid)[-1], signal.SIGKILL)
    assert process.wait(WAIT_S) == 0, (tmp_path / "log").read_text()
    assert held_out(tmp_path / "two") == pytest.approx(held_out(tmp_path / "one"), rel=1e-3)
    said = (tmp_path / "out").read_text()
    assert said == f"{tmp_path}/two: held-out NLL {held_out(tmp_path / 'two'):.4f} nats per token\n"
    log = (tmp_path / "log").read_text()
    assert "process 1 of 2" in log if launcher == "--on" else "SIGKILL" in log or "exitcode: -9" in log


@pytest.mark.slow
def test_an_interrupted_training_of_two_processes_goes_on_with_one(
    recipe: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    assert invoke("train", recipe, "-o", tmp_path / "one").exit_code == 0
    process = begun([sys.executable, *COMPRESS, recipe, "-o", tmp_path / "two", "--on", "torchrun:2"], tmp_path)
    ends = time.monotonic() + WAIT_S
    while not steps_done(tmp_path) and time.monotonic() < ends:
        time.sleep(0.02)
    own = workers(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 130, (tmp_path / "log").read_text()
    assert (
        (tmp_path / "log")
        .read_text()
        .endswith("\ninterrupted; what was finished is kept, and the next run goes on from there\n")
    )
    assert not any(Path(f"/proc/{pid}").exists() for pid in own)
    assert (tmp_path / "two" / "checkpoint.pt").exists()
    assert invoke("train", recipe, "-o", tmp_path / "two").exit_code == 0
    assert held_out(tmp_path / "two") == pytest.approx(held_out(tmp_path / "one"), rel=1e-3)


@pytest.mark.slow
def test_what_is_wrong_is_one_line(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text().replace("batch: 8", "batch: 9"))
    line = "error: mini: train.batch: 9 cannot be shared equally by 2 processes; use a multiple of 2\n"
    process = begun([sys.executable, *COMPRESS, recipe, "-o", tmp_path / "two", "--on", "torchrun:2"], tmp_path)
    assert process.wait(WAIT_S) == 2
    assert (tmp_path / "log").read_text() == line
    process = begun([*TORCHRUN, *COMPRESS, recipe, "-o", tmp_path / "two"], tmp_path)
    assert process.wait(WAIT_S) == 1, "torchrun's own exit code"
    assert (tmp_path / "log").read_text().count(line) == 1
    assert "compress/" not in (tmp_path / "log").read_text(), "no traceback of this project's"


def test_another_place_to_train_is_refused(recipe: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("train", recipe, "-o", tmp_path / "two", "--on", "local:2") == (
        "--on: 'local:2' is no place to train; write torchrun:N (1 to 1024 processes of this machine)"
    )
