"""The recipes, the sets of gates and the spaces that come with the project, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.core.settings import InputError, nearest
from compress.core.strict_yaml import read_yaml

Verb = Literal["run", "train"]

ROOT = Path(__file__).parents[1] / "recipes"
GATES = ROOT / "gates"
SPACES = ROOT / "spaces"
NAME = re.compile(r"[\w-]{1,64}")


@dataclass(frozen=True)
class Shipped:
    """A shipped recipe: its name, the verb that takes it, and what it is for."""

    name: str
    verb: Verb
    doc: str


def listed() -> list[Shipped]:
    """Every shipped recipe, those that compress before those that train."""
    found = [described(ROOT / f"{name}.yaml") for name in names()]
    return sorted(found, key=lambda each: (each.verb, each.name))


def described(path: Path) -> Shipped:
    """A recipe with what its opening comment says, up to the command that runs it."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("# "))
    return Shipped(path.stem, verb_of(read_yaml(path)), " ".join(lines))


def verb_of(recipe: Any) -> Verb:
    """Which verb takes what a file of a recipe holds."""
    trains = isinstance(recipe, Mapping) and "train" in recipe and not {"passes", "engines"} & recipe.keys()
    return "train" if trains else "run"


def check_verb(recipe: Any, path: Path, verb: Verb) -> None:
    """Refuse what another verb takes.

    Raises:
        InputError: a recipe for training is run, or the other way round.
    """
    other = verb_of(recipe)
    if other != verb and isinstance(recipe, Mapping) and {"train", "passes", "engines"} & recipe.keys():
        kind = "trains a model" if other == "train" else "compresses a model"
        raise InputError(f"{path}: this recipe {kind}; use  compress {other}")


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
