"""The GitHub Action of action.yml: its inputs, and its steps as a runner executes them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from composite import EXPRESSION, Runner

from compress.models.families import reference

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1"
[tool.setuptools]
py-modules = []
"""


def step(name: str) -> dict[str, Any]:
    """The step of this name."""
    (found,) = [each for each in STEPS if each["name"] == name]
    return found


@dataclass(frozen=True)
class Ran:
    """What a step left behind."""

    code: int
    said: str
    outputs: dict[str, str]
    summary: str


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ran]:
    """Execute a step's script in a folder, as GitHub's runner executes `shell: bash`, with inputs."""
    files = {name: tmp_path / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}

    def execute(name: str, action_path: Path = ROOT, **inputs: object) -> Ran:
        defaults = {key: value.get("default", "") for key, value in ACTION["inputs"].items()}
        known = {**defaults, **{key.replace("_", "-"): str(value) for key, value in inputs.items()}}
        given = {
            key: EXPRESSION.sub(lambda found: known[found[1].removeprefix("inputs.")], value)
            for key, value in step(name).get("env", {}).items()
        }
        script = tmp_path / "script.sh"
        script.write_text(step(name)["run"])
        for file in files.values():
            file.write_text("")
        environment = {**os.environ, **given, **{key: str(file) for key, file in files.items()}}
        environment |= {"GITHUB_ACTION_PATH": str(action_path), "PYTHONPATH": str(ROOT)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
        return Ran(done.returncode, done.stdout + done.stderr, outputs, files["GITHUB_STEP_SUMMARY"].read_text())

    return execute


def test_every_input_is_described_and_used_and_no_other_is_named() -> None:
    used = set(re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(STEPS)))
    assert used == set(ACTION["inputs"])
    for name, said in ACTION["inputs"].items():
        assert said["description"], name
        assert said.get("required", False) != ("default" in said), name


def test_every_output_is_described_and_comes_of_a_step_that_writes_it() -> None:
    for name, said in ACTION["outputs"].items():
        (source,) = EXPRESSION.findall(said["value"])
        assert said["description"]
        assert source == f"steps.verify.outputs.{name}"
        assert f"{name}=" in step("Measure and judge")["run"]


def test_the_page_shows_every_input_with_its_default() -> None:
    page = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    table = page.partition("| Input | Default |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]
    shown = {name.strip("` "): default for names, default in cells for name in names.split(",")}
    assert {*shown} == {*ACTION["inputs"]}
    for name, said in ACTION["inputs"].items():
        assert not said.get("default") or shown[name] == said["default"], name
    example = yaml.safe_load(re.search(r"```yaml\n(name: gate.*?)```", page, re.S).group(1))  # type: ignore[union-attr]
    (used,) = [each["with"] for each in example["jobs"]["gate"]["steps"] if each.get("id") == "drift"]
    assert {"reference", "candidate"} <= {*used} <= {*ACTION["inputs"]}


def test_scripts_take_inputs_as_variables_alone() -> None:
    """An expression inside of a script would let the text of an input be executed."""
    for each in STEPS:
        assert ("run" in each) != ("uses" in each)
        assert "${{" not in each.get("run", "")
        assert "run" not in each or each["shell"] == "bash"


def test_every_option_that_it_passes_exists() -> None:
    from compress.cli import main

    known = {name for option in main.commands["verify"].params for name in option.opts}
    assert set(re.findall(r"(--[a-z]+) ", step("Measure and judge")["run"])) <= known


@pytest.fixture
def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a project that installs nothing but its name; pip works without a network, into a folder."""
    pytest.importorskip("setuptools", reason="setuptools is not installed, and nothing is downloaded here")
    for name in ("NO_INDEX", "NO_BUILD_ISOLATION", "DISABLE_PIP_VERSION_CHECK"):
        monkeypatch.setenv(f"PIP_{name}", "0" if name == "NO_BUILD_ISOLATION" else "1")  # pip reads this one inverted
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))

    def make(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pyproject.toml").write_text(PROJECT.format(name=name))
        (folder / "constraints.txt").write_text("numpy==2.4.6\n")
        return folder

    return make


@pytest.mark.slow
def test_it_installs_its_own_version_or_the_package_that_is_named(installing, run, tmp_path: Path) -> None:
    own, other = installing("own"), installing("other")
    done = run("Install compress", own)
    assert done.code == 0, done.said
    done = run("Install compress", own, package=other, pip_options="--no-deps --quiet")
    assert (done.code, done.said) == (0, ""), done.said
    assert sorted(path.name for path in (tmp_path / "target").glob("*.dist-info")) == [
        "other-1.dist-info",
        "own-1.dist-info",
    ]


@pytest.mark.slow
def test_a_package_that_cannot_be_installed_ends_the_job(installing, run, tmp_path: Path) -> None:
    assert run("Install compress", installing("own"), package=tmp_path / "none").code != 0


def test_it_finds_the_folder_of_pips_cache(run) -> None:
    assert Path(run("Find pip's cache").outputs["folder"]).is_absolute()


@pytest.mark.slow
def test_bad_input_keeps_its_exit_code_and_has_a_report(run, tiny_engine: Path, tmp_path: Path) -> None:
    done = run("Measure and judge", reference="no-such-model", candidate=tiny_engine)
    assert done.code == 2
    assert done.outputs == {"exit-code": "2", "junit": str(tmp_path / "drift.xml"), "markdown": ""}
    assert done.summary == ""
    done = run("Measure and judge", reference="digits", candidate=tiny_engine, gates="none.yaml")
    assert (done.code, done.outputs["junit"]) == (2, ""), "a report of an earlier job is not this one's"


@pytest.mark.slow
def test_a_breached_gate_is_exit_code_1_and_a_kept_one_0(run, tiny_model, tiny_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text("kl: 0.001\n")
    for seed, code in ((0, 0), (1, 1)):  # of its own weights, and of others
        (tmp_path / "model").mkdir(exist_ok=True)
        reference.save(tiny_model(seed=seed), tmp_path / "model")
        done = run(
            "Measure and judge", reference="model", candidate=tiny_engine, gates="gates.yaml", tokens="digits",
            samples=4, options="--held-out 8 --threads 1",
        )  # fmt: skip
        assert done.code == code, done.said
        assert done.outputs["exit-code"] == str(code)
        assert done.summary == Path(done.outputs["markdown"]).read_text(encoding="utf-8") != ""
        assert ("<failure" in Path(done.outputs["junit"]).read_text(encoding="utf-8")) == bool(code)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GitHub puts at the action's path: this repository, as far as it is installed."""
    folder = tmp_path_factory.mktemp("action")
    for name in ("compress", "export", "calibration", "recipes"):
        left = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "emoji*")
        shutil.copytree(ROOT / name, folder / name, ignore=left)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "action.yml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
def test_another_repository_uses_the_whole_action(checkout: Path, tiny_model, tiny_engine: Path, tmp_path) -> None:
    """Every step in order, in a folder that has nothing of this repository; compress is what the action installed."""
    pytest.importorskip("setuptools", reason="setuptools is not installed, and nothing is downloaded here")
    workspace, target = tmp_path / "theirs", tmp_path / "installed"
    (workspace / "ci" / "model").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    shutil.copytree(tiny_engine, workspace / "ci" / "engine")
    (workspace / "ci" / "gates.yaml").write_text("kl: 0.001\n")
    environment = {
        "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_TARGET": str(target), "PYTHONPATH": str(target),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }  # fmt: skip
    inputs = {
        "reference": "model", "candidate": "engine", "gates": "gates.yaml", "tokens": "digits", "samples": "4",
        "options": "--held-out 8 --threads 1", "pip-options": "--no-deps --upgrade", "working-directory": "ci",
    }  # fmt: skip
    action = yaml.safe_load((checkout / "action.yml").read_text(encoding="utf-8"))
    for seed, given, code in ((0, {}, 0), (1, {}, 1), (0, {"candidate": "no-such-engine", "gates": ""}, 2)):
        reference.save(tiny_model(seed=seed), workspace / "ci" / "model")
        (tmp_path / "runner").mkdir(exist_ok=True)
        ran = Runner(workspace, checkout, tmp_path / "runner").run(action, {**inputs, **given}, environment)
        assert ran.code == code, ran.said
        assert ran.outputs["exit-code"] == str(code)
        assert (target / "compress" / "__main__.py").is_file(), "the action's own version was not installed"
        assert ran.used["Set up Python"] == {"python-version": "3.11"}
        assert Path(ran.used["Keep pip's downloads"]["path"]).is_absolute()
        assert ran.outputs["junit"] == str(workspace / "ci" / "drift.xml")
        assert ran.used["Upload the reports"]["name"] == "drift", "reports are uploaded of a job that failed too"
        assert ran.used["Upload the reports"]["path"].split() == [
            path for path in (ran.outputs["junit"], ran.outputs["markdown"]) if path
        ]
        if code == 2:
            assert (ran.outputs["markdown"], ran.summary) == ("", "")
            assert len([line for line in ran.said.splitlines() if "no-such-engine" in line]) == 1
        else:
            assert ran.summary == (workspace / "ci" / "drift.md").read_text(encoding="utf-8") != ""
        inputs["pip-options"] = "--no-deps --upgrade --quiet"
    assert {path.name for path in workspace.iterdir()} == {".git", "ci"}
    without = {**inputs, "package": str(tmp_path / "none"), "python-version": "", "cache": "false", "artifact": ""}
    ran = Runner(workspace, checkout, tmp_path / "runner").run(action, without, environment)
    assert ran.code != 0
    assert ran.used == {}
    assert "Measure and judge" in ran.skipped
    assert ran.outputs == {"exit-code": "", "junit": "", "markdown": ""}
