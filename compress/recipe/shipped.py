"""The recipes that come with the project, by name."""

from __future__ import annotations

import re
from pathlib import Path

from compress.core.settings import InputError, nearest

ROOT = Path(__file__).parents[1] / "recipes"
NAME = re.compile(r"[\w-]{1,64}")


def names() -> list[str]:
    """Every recipe that can be run by its name."""
    return sorted(path.stem for path in ROOT.glob("*.yaml"))


def located(recipe: str | Path) -> Path:
    """The file of a recipe, which is given by its path or, where no such file is, by the name of a shipped one.

    Raises:
        InputError: it looks like a name, but nothing has it; the nearest is suggested.
    """
    path = Path(recipe)
    if not NAME.fullmatch(str(recipe)) or (path.exists() and not path.is_dir()):
        return path
    if path.name in names():
        return ROOT / f"{path.name}.yaml"
    if path.is_dir():
        return path  # whoever reads it says that it is a folder
    raise InputError(
        f"{path}: there is no such file, and no shipped recipe of this name; {nearest(path.name, names())}"
    )
