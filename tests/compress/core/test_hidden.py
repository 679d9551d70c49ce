"""A file of the user's that hides a package of this project is named in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = "from compress.core.hidden import check_packages\ncheck_packages()\nprint('well')\n"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=given, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["export", "calibration"])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_the_command_says_what_hides_what(name: str, form: str, tmp_path: Path) -> None:
    hiding = tmp_path / form.format(name)
    hiding.parent.mkdir(exist_ok=True)
    hiding.write_text("")
    done = run(tmp_path, "-m", "compress", "--help")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {hiding} hides the package '{name}' of compress; rename it, or start from another folder\n"
    )


def test_a_script_beside_such_a_file_is_told_by_an_import_error(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    assert run(tmp_path, "script.py").stdout == "well\n"
    (tmp_path / "export.py").write_text("")
    last = run(tmp_path, "script.py").stderr.splitlines()[-1]
    assert last.startswith(
        f"compress.core.hidden.HiddenPackageError: {tmp_path / 'export.py'} hides the package 'export'"
    )


def test_files_of_other_names_and_folders_without_code_hide_nothing(tmp_path: Path) -> None:
    (tmp_path / "exports.py").write_text("")
    (tmp_path / "calibration").mkdir()
    done = run(tmp_path, "-m", "compress", "--help")
    assert done.returncode == 0, done.stderr
