"""The settings of a class read from its source, without importing the module and the heavy libraries that it needs.

What is wrong with a recipe's settings is so said in a fraction of a second. An outline knows the fields, their types
and ranges where the source states them plainly; it accepts everything else, and the class itself is asked later.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.core import settings

ROOT = Path(__file__).parents[2]
LIGHT = ("typing", "dataclasses", "collections.abc", "pathlib", "compress.core.settings")
ENDS = ("Pass", "TorchPass", "GraphPass", "ABC", "Generic", "Protocol")  # bases without settings


class UnclearError(Exception):
    """The source alone does not say it."""


@functools.cache
def outline(module: str, name: str) -> type:
    """A dataclass with the settings of a class of this project.

    Raises:
        UnclearError: its source does not say which settings there are.
    """
    names = Names(module)
    found = names.node(name)
    if not isinstance(found, ast.ClassDef):
        raise UnclearError(name)
    return made_of(names, found)


def made_of(names: Names, found: ast.ClassDef) -> type:
    """The dataclass that a definition stands for; a field takes the place of one of its name above."""
    own = {name: (name, kind, stated) for name, kind, stated in fields(names, found)}
    return dataclasses.make_dataclass(found.name, [*own.values()], frozen=True, kw_only=True)


def fields(names: Names, found: ast.ClassDef) -> Iterator[tuple[str, Any, Any]]:
    """Names, types and settings of the fields of a class, those of its bases first."""
    for base in found.bases:
        root = base.value if isinstance(base, ast.Subscript) else base
        if not isinstance(root, ast.Name):
            raise UnclearError(found.name)
        if root.id not in ENDS:
            above, node = names.home(root.id)
            yield from fields(above, node)
    for line in found.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            if "ClassVar" in ast.unparse(line.annotation):
                continue
            kind = names.value(line.annotation, Any)
            unknown = settings.setting(None, doc="") if line.value is not None else dataclasses.field()
            stated = unknown if line.value is None else names.value(line.value, unknown)
            if stated is unknown and line.value is not None:
                kind = Any
            if not isinstance(stated, dataclasses.Field):
                stated = settings.setting(stated, doc="")
            yield line.target.id, kind, stated


class Names(dict[str, Any]):
    """What the names of a module stand for, evaluated when they are asked for."""

    def __init__(self, module: str) -> None:
        super().__init__()
        path = ROOT.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        try:
            self.tree = ast.parse(path.read_text(encoding="utf-8"))
        except OSError:
            raise UnclearError(module) from None

    def node(self, name: str) -> ast.stmt | None:
        """The statement of the module that a name comes from."""
        for line in self.tree.body:
            if isinstance(line, ast.ClassDef) and line.name == name:
                return line
            targets = line.targets if isinstance(line, ast.Assign) else ()
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                return line
            if isinstance(line, ast.ImportFrom) and any(name == (each.asname or each.name) for each in line.names):
                return line
        return None

    def home(self, name: str) -> tuple[Names, ast.ClassDef]:
        """The module that defines a class, and its definition there."""
        found = self.node(name)
        if isinstance(found, ast.ImportFrom) and found.module is not None:
            return Names(found.module).home(name)
        if not isinstance(found, ast.ClassDef):
            raise UnclearError(name)
        return self, found

    def value(self, expression: ast.expr, otherwise: Any) -> Any:
        """What an expression of this project's own source is."""
        try:
            return eval(compile(ast.Expression(expression), "<settings>", "eval"), {"__builtins__": {}}, self)
        except Exception:  # whatever it needs is not known here
            return otherwise

    def __missing__(self, name: str) -> Any:
        found = self.node(name)
        if isinstance(found, ast.ClassDef):
            made = made_of(*self.home(name))
        elif isinstance(found, ast.Assign):
            unknown = object()
            made = self.value(found.value, unknown)
            if made is unknown:
                raise UnclearError(name)
        elif isinstance(found, ast.ImportFrom) and found.module is not None:
            original = next(each.name for each in found.names if name == (each.asname or each.name))
            if found.module in LIGHT:
                made = getattr(sys.modules.get(found.module) or __import__(found.module, fromlist=["_"]), original)
            else:
                made = Names(found.module)[original]
        elif hasattr(builtins, name):
            made = getattr(builtins, name)
        else:
            raise UnclearError(name)
        self[name] = made
        return made
