"""What is installed under which name, and what every text says of installing it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALL = re.compile(r"pip3? install\b([^\n`]*)")
REQUIREMENT = re.compile(r"'([A-Za-z][\w.-]*(?:\[[\w,]+\])?[=><][^']*)'")
MESSAGES = ("compress", "export", "calibration")  # the folders whose texts are errors


def texts() -> list[Path]:
    """Every file of the project that is text."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    endings = (".md", ".py", ".toml", ".txt", ".yaml", ".cfg", "Makefile", "run")
    return [ROOT / name for name in listed.stdout.splitlines() if name.endswith(endings) and (ROOT / name).is_file()]


def test_the_distribution_has_a_name_of_its_own() -> None:
    """`compress` on the package index belongs to somebody else."""
    assert PROJECT["name"] == "image-token-compress"
    assert PROJECT["scripts"] == {"compress": "compress.__main__:main"}


def test_no_text_tells_to_install_the_distribution_of_somebody_else() -> None:
    wrong = re.compile(r"(?<![\w./-])compress(\[|['\"]|\s|$)")
    told = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in texts()
        if path != Path(__file__)
        for line in INSTALL.findall(path.read_text(encoding="utf-8"))
        if wrong.search(line)
    ]
    assert told == []


def test_what_a_message_tells_to_install_is_what_an_extra_asks_for() -> None:
    asked = {each for extra in PROJECT["optional-dependencies"].values() for each in extra}
    told = {
        requirement
        for path in texts()
        if path.relative_to(ROOT).parts[0] in MESSAGES
        for line in INSTALL.findall(path.read_text(encoding="utf-8"))
        for requirement in REQUIREMENT.findall(line)
    }
    assert told
    assert told <= asked
