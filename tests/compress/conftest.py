"""A tiny checkpoint, a recipe for it, one finished run of that recipe, and workers without processes."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

from compress.cli import main
from compress.core.listener import Silent
from compress.core.store import Store
from compress.models.families import reference
from compress.models.image_model import ImageModel
from compress.recipe import recipe
from compress.report import Report
from compress.running import pipeline
from compress.workers import place
from compress.workers.crew import Done, Failed, Function, Maker, Say, Worker, attempted
from compress.workers.versions import versions

SMALL_RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 8, held_out: 4}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - prune-ffn: {{ratio: 0.25, score: magnitude}}
engines:
  cpu: [export: {{target: onnxruntime}}]
"""
RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 20}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 20}}
passes:
  - prune-heads: {{ratio: 0.25, score: magnitude}}
  - distill:     {{steps: 90, batch: 8, validate_every: 30, patience: 0, hidden: 0}}
    gate:        {{kl: 50}}
  - quantize:    {{weights: int8, activations: int8, dynamic: true}}
engines:
  cpu: [export: {{target: onnxruntime}}]
gate: {{kl: 50}}
"""


@dataclass(frozen=True)
class Finished:
    """A recipe, and what its run left behind."""

    recipe: Path
    store: Path
    output: Path
    report: Report

    def changed(self, *edits: tuple[str, str]) -> Path:
        """The recipe with some of its text replaced."""
        text = self.recipe.read_text()
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        self.recipe.write_text(text)
        return self.recipe


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., ImageModel]) -> Path:
    """The folder of a tiny checkpoint; tests must not write into it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    reference.save(tiny_model(), folder)
    return folder


@pytest.fixture
def small_recipe() -> Callable[[Path, Path], Path]:
    """Writes a recipe of one pass on a checkpoint into a file."""

    def write(checkpoint: Path, file: Path) -> Path:
        file.write_text(SMALL_RECIPE.format(checkpoint=checkpoint))
        return file

    return write


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Finished:
    """One finished run; tests must not write into its folders."""
    room = tmp_path_factory.mktemp("finished")
    path = room / "tiny.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    report = pipeline.run(recipe.load(path), Store(room / "store"), room / "run", Silent(), preflight=False)
    return Finished(path, room / "store", room / "run", report)


@pytest.fixture
def finished(shared_run: Finished, tmp_path: Path) -> Finished:
    """A copy of the finished run that a test may change."""
    for part in ("store", "run"):
        shutil.copytree(shared_run.recipe.parent / part, tmp_path / part)
    shutil.copy(shared_run.recipe, tmp_path)
    return replace(shared_run, recipe=tmp_path / "tiny.yaml", store=tmp_path / "store", output=tmp_path / "run")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Install a package of one file: `installed(source, "compress.passes", "round-weights = my_passes:RoundWeights")`.

    Its module is called as the entry point says; the next test does not have it.
    """

    def install(source: str, group: str, entry: str) -> None:
        site, module = tmp_path / "site", re.search(r"= ([\w]+)", entry)[1]
        metadata = site / f"{module}-0.1.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
        (metadata / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)

    return install


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Run the command line in this process: `invoke("run", path, "--json")`."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="compress")

    return run


@pytest.fixture
def refused(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Run the command line, hold it to exit code 2 and one line without a traceback; that line."""

    def run(*arguments: object) -> str:
        result = invoke(*arguments)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit)
        lines = [line for line in result.stderr.splitlines() if not re.search(r": (made|reused) \w{12}$", line)]
        assert len(lines) == 1, result.stderr
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture(scope="session")
def ray() -> Iterator[ModuleType]:
    """A Ray cluster of two processors on this machine, whose workers find what tests hand them."""
    ray = pytest.importorskip("ray")
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
        runtime_env={"env_vars": paths},
    )  # fmt: skip
    yield ray
    ray.shutdown()


class Here:
    """Workers that do a task when they are asked what came of it; `tasks` are all that were handed out."""

    def __init__(self, make: Maker, size: int, heard: Say) -> None:
        self.make, self.size, self.heard = make, size, heard
        self.tasks: list[Any] = []

    def start(self) -> Worker:
        return WorkerHere(self)

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        return workers[-1:]


class WorkerHere:
    name = "worker here"

    def __init__(self, crew: Here) -> None:
        self.crew, self.task = crew, None
        self.function: Function | None = None

    def send(self, argument: Any) -> None:
        self.task = argument
        self.crew.tasks.append(argument)

    def reply(self) -> Done | Failed:
        if self.function is None:
            self.function = self.crew.make(self.crew.heard)
            return Done(versions())
        return attempted(lambda: self.function(self.task))

    def stop(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Here]:
    """Let ``local:N`` be workers without processes; the crews that there were."""
    made: list[Here] = []

    def crew(size: int, make: Maker, heard: Say) -> Here:
        made.append(Here(make, size, heard))
        return made[-1]

    monkeypatch.setattr(place, "LocalCrew", crew)
    return made
