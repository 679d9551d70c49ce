"""The runtime is a package of its own: built, installed beside neither PyTorch nor compress, it draws the same file."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from export.runtime import __main__ as command

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "export" / "runtime"
PROJECT = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD = "from setuptools import build_meta; import sys; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
ENTRY = "import sys; from image_token_engine.__main__ import program; sys.argv[0] = 'image-token-engine'; program()"


def built(kind: str, source: Path, folder: Path) -> Path:
    """A source archive (`build_sdist`) or a wheel (`build_wheel`), without any network."""
    command = [sys.executable, "-c", BUILD, kind, str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def needed(name: str, found: set[str]) -> set[str]:
    """A distribution and all that it needs in every case."""
    if name not in found:
        found.add(name)
        for line in importlib.metadata.requires(name) or []:
            if ";" not in line:
                needed(re.split(r"[^\w.-]", line)[0], found)
    return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runtime's package, from its wheel, which is from its source archive, and what it needs."""
    pytest.importorskip("setuptools", reason="setuptools is not installed, and nothing is downloaded here")
    room = tmp_path_factory.mktemp("package")
    shutil.copytree(SOURCE, room / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    with tarfile.open(built("build_sdist", room / "source", room)) as archive:
        archive.extractall(room / "unpacked", filter="data")
    (unpacked,) = (room / "unpacked").iterdir()
    wheel = built("build_wheel", unpacked, room)
    folder = room / "installed"
    shutil.unpack_archive(wheel, folder, "zip")
    names: set[str] = set()
    for line in PROJECT["dependencies"]:
        needed(line.split(">")[0], names)
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            if not (folder / part).exists():
                (folder / part).symlink_to(distribution.locate_file(part))
    return folder


@pytest.fixture
def alone(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python with that folder alone, among files that hide the names of this project."""
    for name in ("export.py", "calibration.py", "compress.py"):
        (tmp_path / name).write_text("raise ImportError('a file of the user')\n")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
        words = [sys.executable, "-S", *map(str, arguments)]
        return subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True)

    return run


def test_it_draws_the_same_file_where_there_is_no_torch(alone, exported, engine_of, tmp_path) -> None:
    folder = engine_of(exported("rotary")).folder
    words = [folder, "--labels", "3,1,4", "--seed", "7", "--top-k", "8", "-o"]
    assert command.main([*map(str, words), str(tmp_path / "here.png")]) == 0
    for number, start in enumerate((("-m", "image_token_engine"), ("-c", ENTRY))):
        done = alone(*start, *words, f"{number}.png")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{number}.png: 3 pictures in ")
        assert (tmp_path / f"{number}.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_a_script_beside_a_file_called_export_uses_it(alone, exported, engine_of, tmp_path) -> None:
    folder = engine_of(exported("rotary")).folder
    (tmp_path / "export.py").write_text(
        "import sys\nfrom image_token_engine.engine import Engine\n"
        f"print(Engine.load({str(folder)!r}, threads=1).generate([3, 1], seed=7).shape)\n"
        "print({'torch', 'compress', 'export', 'PIL'} & set(sys.modules))\n"
    )
    done = alone("export.py")
    assert (done.returncode, done.stdout) == (0, "(2, 4, 4, 1)\nset()\n"), done.stderr


def test_its_errors_are_one_line(alone) -> None:
    for words, said in (
        (("none", "--labels", "1", "-o", "a.png"), "error: none"),
        ((), "error: the following arguments are required: ENGINE; python -m image_token_engine --help"),
    ):
        done = alone("-m", "image_token_engine", *words)
        assert done.returncode == 2
        assert done.stderr.startswith(said)
        assert done.stderr.count("\n") == 1


def test_its_metadata_follow_the_whole_project() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert PROJECT["name"] == "image-token-engine"
    assert set(PROJECT["dependencies"]) <= set(whole["dependencies"])
    for key in ("version", "requires-python", "license"):
        assert PROJECT[key] == whole[key]


def test_its_project_file_names_every_folder_of_code() -> None:
    packed = tomllib.loads((SOURCE / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("__init__.py")}
    assert set(packed["package-dir"].values()) == folders
    assert set(packed["packages"]) == set(packed["package-dir"])
