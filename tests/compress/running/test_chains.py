"""The engines of a recipe, made and verified by workers side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from heard import Heard
from jobs_of_workers import children

from compress.core import lease
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.measure.speed.timing import SpeedRow
from compress.recipe import plan as plans
from compress.recipe import recipe
from compress.running import chains, pipeline
from compress.running.meeting import Mark
from compress.workers.place import Place

RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 20}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 20}}
passes:
  - prune-ffn: {{ratio: 0.25, score: magnitude}}
engines:
  plain: [export: {{target: onnxruntime}}]
  small: [quantize: {{weights: int8, activations: int8, dynamic: true}}, export: {{target: onnxruntime}}, fuse: {{}}]
gate: {{kl: 50}}
"""
TIMES = ("speed", "pays", "low_precision_share", "sha256")


@pytest.fixture
def path(checkpoint: Path, tmp_path: Path) -> Path:
    """A recipe of two chains."""
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    return path


@pytest.fixture(autouse=True)
def own_leases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wait for no one else who times on this machine."""
    monkeypatch.setattr(lease, "SYSTEM", tmp_path)


def without_times(report: Any) -> Any:
    """A report without what depends on the clock or on where it was written."""
    if isinstance(report, dict):
        return {key: without_times(value) for key, value in report.items() if key not in (*TIMES, "command", "notes")}
    return [without_times(each) for each in report] if isinstance(report, list) else report


def said(folder: Path) -> Any:
    return without_times(json.loads((folder / "report.json").read_text()))


@pytest.mark.slow
def test_two_workers_report_what_one_process_does(path: Path, tmp_path: Path) -> None:
    loaded, heard = recipe.load(path), Heard()
    for name, place in (("one", None), ("two", Place(2))):
        store = Store(tmp_path / f"store-{name}")
        pipeline.run(loaded, store, tmp_path / name, heard, preflight=False, place=place)
    assert said(tmp_path / "one") == said(tmp_path / "two")
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert all(SpeedRow(**row).median_ms > 0 for engine in report["engines"] for row in engine["speed"])
    made = [line for line in heard.lines if ": made " in line and line.startswith("engine ")]
    assert {line.split(": ")[0] for line in made} == {"engine small"}, "the other one is the shared step's own export"
    assert not any("reused" in line for line in heard.lines), "what workers made is not told twice"


def plan_of(path: Path) -> plans.Plan:
    loaded = recipe.load(path)
    return plans.make_plan(loaded, plans.load_tokens(loaded))


def test_what_times_is_left_to_the_run_itself(path: Path) -> None:
    path.write_text(path.read_text().replace("fuse: {}]", "fuse: {}, engine: {tune: true}]"))
    found = chains.beside_others(plan_of(path))
    assert [node.name for node in found["small"]] == ["small.quantize", "small.export", "small.fuse"]
    assert [node.name for node in found["plain"]] == ["plain.export"]


@pytest.mark.parametrize("reason", ["the recipe has one engine", "the store may only be read"])
def test_with_nothing_to_share_one_line_says_that_this_process_does_everything(
    reason: str, path: Path, tmp_path: Path
) -> None:
    if "one" in reason:
        path.write_text("\n".join(line for line in path.read_text().splitlines() if "  small:" not in line))
    store, said = Store(tmp_path / "store").prepare(), []
    store.writable = "read" not in reason
    assert chains.check_place(Place(2), recipe.load(path), store, said.append) is None
    assert said == [f"--on: {reason}, so there is nothing to share; this process does everything"]
    assert chains.check_place(None, recipe.load(path), store, said.append) is None
    assert len(said) == 1


def test_a_worker_with_other_files_is_refused(path: Path, tmp_path: Path) -> None:
    mark = Mark(str(Store(tmp_path / "store").prepare().root))
    work = chains.Working(recipe.load(path), mark, str(tmp_path), {"plain": ("another",)})
    said = r"two\.yaml: its files or its packages are not those that the command has; copy them$"
    with pytest.raises(InputError, match=said):
        work(print)


def test_engines_that_failed_twice_are_named(path: Path) -> None:
    faults = {f"engine {name}": "no memory" for name in "abcd"}
    assert chains.set_aside(recipe.load(path), faults, 5) == (
        f"{path}: 4 of 5 engines failed twice and were set aside: engine a (no memory); engine b (no memory); engine c "
        f"(no memory); and 1 more; all others are finished and in the store, the same command tries these again"
    )


@pytest.mark.slow
def test_an_engine_that_cannot_be_made_is_named_when_the_others_are_done(
    path: Path, tmp_path: Path, here, refused: Callable[..., str]
) -> None:
    path.write_text(path.read_text().replace("plain: [", "wrong: [prune-layers: {count: 99}, "))
    store = tmp_path / "store"
    line = refused("run", path, "--store", store, "-o", tmp_path / "run", "--on", "local:2", "--skip-preflight", "-q")
    assert "1 of 2 engines failed twice and were set aside: engine wrong (" in line
    assert "prune-layers" in line
    nodes = plan_of(path).engines
    assert all(Store(store).contains(node.key) for node in nodes["small"])
    assert not (tmp_path / "run" / "report.json").exists()


PROGRAM = """
import sys
from pathlib import Path
from compress.cli import main
from compress.core import lease
if __name__ == "__main__":
    lease.SYSTEM = Path(sys.argv.pop(1))
    main(prog_name="compress")
"""


def started(room: Path, path: Path) -> subprocess.Popen[str]:
    """The command, with two workers."""
    (room / "program.py").write_text(PROGRAM)
    options = ("--store", room / "store", "-o", room / "run", "--on", "local:2", "--skip-preflight")
    command = [sys.executable, room / "program.py", room, "run", path, *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([str(each) for each in command], env=environment, **pipes)


def workers_of(job: subprocess.Popen[str]) -> list[int]:
    """The processes of a command that work, when the first engine's step was made."""
    for line in job.stderr:
        if " engine " in line and ": made " in line:
            break
    found = children(job.pid)
    assert found
    return found


def wait_for_the_end(processes: list[int]) -> None:
    until = time.monotonic() + 30
    while any(Path(f"/proc/{each}").exists() for each in processes):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.slow
def test_whatever_is_killed_the_same_command_ends_with_the_same_report(path: Path, tmp_path: Path) -> None:
    pipeline.run(recipe.load(path), Store(tmp_path / "alone"), tmp_path / "one", Silent(), preflight=False)
    for sent, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        job = started(tmp_path, path)
        workers = workers_of(job)
        job.send_signal(sent)
        assert job.wait(60) == code
        wait_for_the_end(workers)
        for folder in (tmp_path / "store" / "artifacts").iterdir():
            if folder.name in {node.key for node in plan_of(path).engines["small"]}:
                shutil.rmtree(folder)  # so that there is something to make, and to kill
    job = started(tmp_path, path)
    os.kill(workers_of(job)[0], signal.SIGKILL)
    _, lines = job.communicate()
    assert job.returncode == 0, lines
    assert said(tmp_path / "run") == said(tmp_path / "one")
    path.write_text(path.read_text().replace("gate: {kl: 50}", "gate: {kl: 0.000000001}"))
    job = started(tmp_path, path)
    job.communicate()
    assert job.returncode == 1, "a breached gate"


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_engines(path: Path, tmp_path: Path, ray: Any) -> None:
    loaded, heard = recipe.load(path), Heard()
    for name, place in (("one", None), ("ray", Place())):
        pipeline.run(loaded, Store(tmp_path / f"store-{name}"), tmp_path / name, heard, preflight=False, place=place)
    assert said(tmp_path / "one") == said(tmp_path / "ray")
    assert any(line.startswith("engine small: ") and ": made " in line for line in heard.lines)
