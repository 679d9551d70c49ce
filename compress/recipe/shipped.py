"""The recipes, the sets of gates and the spaces that come with the project, by name."""

from __future__ import annotations

import re
from pathlib import Path

from compress.core.settings import InputError, nearest

ROOT = Path(__file__).parents[1] / "recipes"
GATES = ROOT / "gates"
SPACES = ROOT / "spaces"
NAME = re.compile(r"[\w-]{1,64}")


def names(folder: Path = ROOT) -> list[str]:
    """Every recipe that can be run by its name, or every set of gates, or every space."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def located(recipe: str | Path) -> Path:
    """The file of a recipe, which is given by its path or, where no such file is, by the name of a shipped one.

    Raises:
        InputError: it looks like a name, but nothing has it; the nearest is suggested.
    """
    return _located(recipe, ROOT, "recipe")


def located_gates(gates: str | Path) -> Path:
    """The file of a set of gates, given as a recipe is: by its path, or by the name of a shipped set.

    Raises:
        InputError: it looks like a name, but nothing has it; the nearest is suggested.
    """
    return _located(gates, GATES, "set of gates")


def located_space(space: str | Path) -> Path:
    """The file of a space, given as a recipe is: by its path, or by the name of a shipped one.

    Raises:
        InputError: it looks like a name, but nothing has it; the nearest is suggested.
    """
    return _located(space, SPACES, "space")


def _located(given: str | Path, folder: Path, kind: str) -> Path:
    path, known = Path(given), names(folder)
    if not NAME.fullmatch(str(given)) or (path.exists() and not path.is_dir()):
        return path
    if path.name in known:
        return folder / f"{path.name}.yaml"
    if path.is_dir():
        return path  # whoever reads it says that it is a folder
    raise InputError(f"{path}: there is no such file, and no shipped {kind} of this name; {nearest(path.name, known)}")
