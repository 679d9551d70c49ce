"""The wheel holds all that a run needs: shipped recipes by name, weights, and a whole run outside of the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("compress", "export", "calibration", "recipes")
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 8, held_out: 10}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
engines:
  cpu: [export: {{target: onnxruntime}}]
"""


def skipped(folder: str, names: list[str]) -> set[str]:
    """What need not be copied: what is made, and the larger of the shipped weights."""
    made = {name for name in names if name in ("build", "__pycache__") or name.endswith(".egg-info")}
    return made | ({name for name in names if name.startswith("emoji")} if folder.endswith("zoo") else set())


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Python with the wheel's packages before all others, in a folder outside of the checkout."""
    pytest.importorskip("setuptools", reason="setuptools is not installed, and nothing is downloaded here")
    room = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        shutil.copytree(ROOT / part, room / "source" / part, symlinks=True, ignore=skipped)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, room / "source")
    command = [sys.executable, "-c", BUILD, str(room)]
    done = subprocess.run(command, cwd=room / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(room / done.stdout.splitlines()[-1], room / "installed", "zip")
    (room / "elsewhere").mkdir()
    given = {**os.environ, "PYTHONPATH": str(room / "installed"), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *map(str, arguments)]
        return subprocess.run(words, cwd=room / "elsewhere", env=given, capture_output=True, text=True)

    return run


def test_a_wheel_holds_packages_recipes_and_marks_of_types_and_nothing_else(program) -> None:
    done = program(
        "-c",
        "import compress, export, calibration, pathlib\n"
        "home = pathlib.Path(compress.__file__).parents[1]\n"
        "print(*{pathlib.Path(each.__file__).parents[1] == home for each in (compress, export, calibration)})\n"
        "print(*sorted(each.name for each in home.iterdir()))\n"
        "print(*sorted(each.relative_to(home) for each in home.rglob('py.typed')))\n"
        "print(*sorted(each.stem for each in home.glob('compress/recipes/*')))\n",
    )
    same, top, typed, recipes = done.stdout.splitlines()
    assert same == "True"
    assert top == "calibration compress export image_token_compress-0.1.0.dist-info"
    assert typed == "calibration/py.typed compress/py.typed export/py.typed export/runtime/py.typed"
    assert recipes.split() == sorted(path.stem for path in (ROOT / "recipes").iterdir())


def test_a_shipped_recipe_is_planned_by_its_name(program) -> None:
    done = program("-m", "compress", "plan", "quickstart", "--json")
    assert done.returncode == 0, done.stderr
    steps = [step["name"] for step in json.loads(done.stdout)["steps"]]
    assert steps[0] == "reference"
    assert steps[-1] == "rtx.build-engine"


@pytest.mark.slow
def test_a_recipe_runs_outside_of_the_checkout(program, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(checkpoint=checkpoint))
    places = ("--store", tmp_path / "store", "-o", tmp_path / "run")
    done = program("-m", "compress", "run", tmp_path / "tiny.yaml", *places, "--skip-preflight")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "engines" / "cpu" / "decode.onnx").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
