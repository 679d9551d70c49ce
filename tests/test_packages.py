"""What is installed under which name, and what every text says of installing it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALL = re.compile(r"pip3? install\b([^\n`]*)")
REQUIREMENT = re.compile(r"'([A-Za-z][\w.-]*(?:\[[\w,]+\])?[=><][^']*)'")
OPTIMUM = "constraints-optimum.txt"
FROM_NVIDIA = "TensorRT's libraries come from NVIDIA's own index"
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
    named = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in texts()
        if path != Path(__file__)
        for line in INSTALL.findall(path.read_text(encoding="utf-8"))
        if wrong.search(line)
    ]
    assert named == []


def test_what_a_message_tells_to_install_is_what_an_extra_asks_for() -> None:
    required = {each for extra in PROJECT["optional-dependencies"].values() for each in extra}
    named = {
        requirement
        for path in texts()
        if path.relative_to(ROOT).parts[0] in MESSAGES
        for line in INSTALL.findall(path.read_text(encoding="utf-8"))
        for requirement in REQUIREMENT.findall(line)
    }
    assert named
    assert named <= required


def pins(file: str) -> dict[str, str]:
    """The versions that a file of constraints names."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def installations() -> Iterator[str]:
    """The arguments of every `pip install` that the documentation and the Makefile name, but of wheels made by hand."""
    for path in texts():
        if path.suffix == ".md" or path.name in ("Makefile", "requirements.txt"):
            for line in INSTALL.findall(path.read_text(encoding="utf-8")):
                if line.strip() and "dist/" not in line:
                    yield in_one_order(line)


def in_one_order(line: str) -> str:
    """The same arguments, constraints last, without those that only make pip quieter."""
    words = line.replace("--constraint", "-c").replace("--editable", "-e").split()
    words = [word for word in words if word not in ("--quiet", "--disable-pip-version-check")]
    place = words.index("-c") if "-c" in words else len(words)
    return " ".join([*words[:place], *words[place + 2 :], *words[place : place + 2]])


LINES = sorted(set(installations()))


@pytest.mark.parametrize("line", [line for line in LINES if " -c " in line])
def test_the_constraints_of_a_line_allow_what_it_installs(line: str) -> None:
    wanted, found = list(PROJECT["dependencies"]), pins(line.rpartition(" -c ")[2])
    for extra in re.findall(r"\[([\w,]+)\]", line):
        for name in extra.split(","):
            wanted += PROJECT["optional-dependencies"][name]
    for requirement in map(Requirement, wanted):
        version = found.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), (
            f"{line}: {requirement} is pinned to {version}"
        )


def test_both_files_of_constraints_agree_but_for_what_optimum_contradicts() -> None:
    usual, other = pins("constraints.txt"), pins(OPTIMUM)
    apart = {name for name in usual if name in other and usual[name] != other[name]}
    assert apart == {"transformers", "huggingface-hub", "tokenizers"}
    assert set(other) - set(usual) == {"optimum", "optimum-onnx"}
    assert {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]} <= set(other)


@pytest.mark.index
@pytest.mark.parametrize("line", LINES)
def test_a_documented_installation_can_be_resolved(line: str, tmp_path: Path) -> None:
    """Not in the usual suite: each takes half a minute to two, and asks a package index."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    probe = [*pip, "download", "--quiet", "--no-deps", "--dest", str(tmp_path), "click"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("there is no package index here")
    command = [*pip, "install", "--dry-run", "--quiet", "--ignore-installed", *shlex.split(line)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode and "tensorrt" in line:
        pytest.skip(FROM_NVIDIA)
    assert done.returncode == 0, done.stderr
