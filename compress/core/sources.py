"""A hash of the source that a module runs: its own and that of what it imports of this project.

It is part of an artifact's key, so that mended code never serves what the code before it made.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).parents[2]
PACKAGES = ("compress", "export", "calibration")
# Packages that import their modules by name: all of them count, save here, where one does nothing for another.
APART = ("compress.measure", "compress.passes", "compress.models.families", "compress.models.tokenizer.formats")
OUTER = "compress.api"  # what users import names everything, and does nothing for a pass
BY_NAME = re.compile(r"import_module\(|\b__path__\b")
TYPING_ONLY = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*\n|\n)+", re.MULTILINE)
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+([^\n#]+))", re.MULTILINE
)


@functools.cache
def source_hash(module: str) -> str:
    """The hash of a module that is imported already, and of all that it imports of its own package or of this project.

    Imports inside of functions count, those for type checkers do not. Of a package of readers or passes all count if it
    is asked for itself, else those that are imported. A module without a file adds nothing.
    """
    homes = dict.fromkeys(PACKAGES, HOME) | own_home(module)
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or name == OUTER else file_of(name, homes)
        if path is None:
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *imported(name, path)]
        if name == module or name not in APART:
            waiting += named_at_run_time(name, path)
    content = hashlib.sha256()
    for name in sorted(found):
        content.update(f"{name}\0".encode() + hashed(found[name]))
    return content.hexdigest()


def own_home(module: str) -> dict[str, Path]:
    """The folder that holds the top-level package of an imported module, by the package's name."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return {}
    path, depth = Path(file), module.count(".")
    return {module.partition(".")[0]: path.parents[depth + (path.name == "__init__.py")]}


def file_of(name: str, homes: dict[str, Path]) -> Path | None:
    """The file of a module in one of the packages; None if there is none."""
    home = homes.get(name.partition(".")[0])
    if home is None:
        return None
    place = home.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_name(f"{place.name}.py")) if path.is_file()), None)


def imported(name: str, path: Path) -> Iterator[str]:
    """What a module may import: modules, and names in them that may be modules."""
    is_package = path.name == "__init__.py"
    for source, names, whole in IMPORT.findall(TYPING_ONLY.sub("", text_of(path))):
        if whole:
            yield from re.findall(r"[\w.]+", whole)
            continue
        level = len(source) - len(source.lstrip("."))
        parts = name.split(".")
        above = parts[: len(parts) - level + is_package] if level else []
        module = ".".join([*above, *filter(None, [source.lstrip(".")])])
        yield module
        yield from (f"{module}.{each}" for each in re.findall(r"\w+", names))


def named_at_run_time(name: str, path: Path) -> list[str]:
    """The modules of a package that imports them by name; of one of `APART` another module may do that."""
    if path.name != "__init__.py" or not (name in APART or BY_NAME.search(text_of(path))):
        return []
    return [f"{name}.{each.stem}" for each in path.parent.glob("*.py") if each != path]


def text_of(path: Path) -> str:
    """A module's text; its encoding matters to no import."""
    return path.read_text(encoding="utf-8", errors="replace")


@functools.cache
def hashed(path: Path) -> bytes:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).digest()
