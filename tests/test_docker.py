"""The images of docker/Dockerfile: their steps without Docker, and what the serving one leaves out."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dockerfiles
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from export.runtime.engine import Engine

ROOT = Path(__file__).parents[1]
STAGES = dockerfiles.read(ROOT / "docker" / "Dockerfile")
SERVE, DRAW = STAGES["serve"], STAGES["draw"]
VENV = "/opt/venv"
HEAVY = ("torch", "onnx", "onnxscript", "scipy", "sklearn", "skimage")


def required() -> list[Requirement]:
    """What docker/serve.txt installs."""
    lines = (ROOT / "docker" / "serve.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def with_needed(requirements: list[Requirement], found: set[str]) -> set[str]:
    """The distributions that these requirements bring, with all that each needs here."""
    for requirement in requirements:
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            with_needed([*map(Requirement, importlib.metadata.requires(requirement.name) or [])], found)
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: those of docker/serve.txt, with what they need, and this project without its weights."""
    folder = tmp_path_factory.mktemp("bare")
    for name in with_needed(required(), set()):
        distribution = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not (folder / part).exists():
                (folder / part).symlink_to(distribution.locate_file(part))
    for part in ("compress", "export", "calibration"):
        made = shutil.ignore_patterns("__pycache__", "*.safetensors", "build", "*.egg-info")
        shutil.copytree(ROOT / part, folder / part, ignore=made)
    return folder


def answer(address: str, body: dict[str, Any] | None = None) -> Any:
    """What the service answers, as JSON."""
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=30) as got:
        return json.load(got)


def serve_once(command: list[str], given: dict[str, str], room: Path) -> tuple[list[str], int, str]:
    """Start a service as the image does, ask it for two pictures and for its health, and stop it as Docker does."""
    (healthy,) = map(dockerfiles.words, SERVE.all("HEALTHCHECK"))
    (stop,) = SERVE.all("STOPSIGNAL")
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=room, env=given, **pipes) as process:
        try:
            line = process.stdout.readline()
            port = re.search(r":(\d+)/", line)
            assert port, line + process.stderr.read()
            address = f"http://127.0.0.1:{port[1]}"
            pictures = answer(f"{address}/generate", {"label": 3, "seed": 7, "count": 2})["pictures"]
            probe = [sys.executable, "-S", *(word.replace(":8000", f":{port[1]}") for word in healthy[1:])]
            alive = subprocess.run(probe, capture_output=True).returncode
            process.send_signal(getattr(signal, stop))
            rest, errors = process.communicate(timeout=30)
            assert (process.returncode, errors) == (0, ""), errors
            after = subprocess.run(probe, capture_output=True).returncode
        finally:
            process.kill()
    assert after != 0, "the health check succeeds without a service"
    return pictures, alive, rest


def test_the_service_runs_where_only_its_requirements_are_installed(bare: Path, tiny_engine: Path, tmp_path) -> None:
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(bare), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [
        word.replace("/engine", str(tiny_engine)) for word in dockerfiles.words(SERVE.all("ENTRYPOINT")[0])[1:]
    ]
    command = [sys.executable, "-S", "-m", "compress", *arguments, "--port", "0", "--threads", "1"]
    pictures, alive, rest = serve_once(command, given, tmp_path)
    drawn = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in pictures]
    assert np.array_equal(drawn, Engine.load(tiny_engine, threads=1).generate([3, 3], seed=7)[..., 0])
    assert alive == 0
    assert rest.startswith("stopped; requests answered: 1, pictures drawn for them: 2")
    script = f"import importlib.util as i; print([n for n in {HEAVY} if i.find_spec(n)])"
    done = subprocess.run([sys.executable, "-S", "-c", script], env=given, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_its_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {str(Requirement(each)) for each in [*project["dependencies"], *project["optional-dependencies"]["serve"]]}
    named = {str(each) for each in required()}
    assert named <= known
    assert {str(Requirement(each)) for each in project["optional-dependencies"]["serve"]} <= named


@pytest.mark.parametrize("stage", [SERVE, DRAW], ids=lambda stage: stage.name)
def test_an_image_is_small_and_nobody_is_root_in_it(stage: dockerfiles.Stage) -> None:
    below = dockerfiles.lineage(STAGES, stage.name)
    assert below[0].base == "${BASE}"
    assert [user for each in below for user in each.all("USER")] == ["10001:10001"]
    assert [step for each in below for step in each.all("RUN")] == [], "what is installed belongs into a build stage"
    assert stage.all("COPY") == [f"--from=build-{stage.name} {VENV} {VENV}"]
    assert dockerfiles.environment(dockerfiles.lineage(STAGES, "build"))["PIP_NO_CACHE_DIR"] == "1"


def test_serving_is_what_is_built_unless_told_otherwise() -> None:
    assert list(STAGES)[-1] == "serve"
    assert SERVE.all("EXPOSE") == ["8000"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("compress/serving/page.js", True),
        ("compress/recipes", True),
        ("export/building/rtx.py", True),
        ("docker/serve.txt", True),
        ("compress/models/zoo/emoji/model.safetensors", False),
        ("compress/cli/__pycache__/group.pyc", False),
        ("export/runtime/build/lib/a.py", False),
        ("tests/test_docker.py", False),
        (".venv/bin/python", False),
        (".git/config", False),
        ("runs/quickstart/report.html", False),
    ],
)
def test_the_context_of_a_build_holds_what_is_needed_alone(name: str, kept: bool) -> None:
    assert dockerfiles.in_context(name, (ROOT / ".dockerignore").read_text(encoding="utf-8")) == kept


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The context of a build, as .dockerignore leaves it."""
    rules, source = (ROOT / ".dockerignore").read_text(encoding="utf-8"), tmp_path / "source"

    def left_out(folder: str, names: list[str]) -> Iterator[str]:
        for name in names:
            place = (Path(folder) / name).relative_to(ROOT).as_posix()
            if not dockerfiles.in_context(place, rules):
                yield name

    return shutil.copytree(ROOT, source, symlinks=True, ignore=lambda *given: {*left_out(*given)})


@pytest.mark.index
@pytest.mark.parametrize("name", ["serve", "draw"])
def test_the_steps_of_the_dockerfile_make_what_draws(name: str, context: Path, tiny_engine: Path, tmp_path) -> None:
    """Minutes, and a package index: every RUN as it is written, in a folder instead of an image; then the command."""
    venv, below = tmp_path / "venv", dockerfiles.lineage(STAGES, f"build-{name}")
    given = {**os.environ, **dockerfiles.environment(below)}
    given["PATH"] = f"{Path(sys.executable).parent}:{given['PATH']}"
    for step in [step for stage in below for step in stage.all("RUN")]:
        done = subprocess.run(step.replace(VENV, str(venv)), shell=True, cwd=context, env=given, capture_output=True)
        assert done.returncode == 0, done.stderr
    given = {"PATH": f"{venv}/bin", **{key: value for key, value in os.environ.items() if key == "TMPDIR"}}
    (entry,) = map(dockerfiles.words, STAGES[name].all("ENTRYPOINT"))
    command = [str(venv / "bin" / entry[0]), *(word.replace("/engine", str(tiny_engine)) for word in entry[1:])]
    if name == "serve":
        pictures, alive, _ = serve_once([*command, "--port", "0", "--threads", "1"], given, tmp_path)
        assert (len(pictures), alive) == (2, 0)
    else:
        words = [*command, str(tiny_engine), "--labels", "3,1", "-o", "out.png"]
        done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out.png").is_file()
    names = {path.name for path in venv.glob("lib/python*/site-packages/*")}
    assert not names & {*HEAVY, "pip"}
    print(f"{name}: {sum(path.stat().st_size for path in venv.rglob('*') if path.is_file()) / 1e6:.0f} MB")
