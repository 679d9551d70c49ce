"""Find what recipes can name: the classes in the files of a package of ours, and those that entry points name.

A file defines exactly one class of its kind, called like it: `prune_heads.py` has `PruneHeads`, which recipes call
`prune-heads`. An entry point is called like the class that it names.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterable
from typing import Any, TypeVar

from compress.core.settings import InputError

T = TypeVar("T")


def dashed(name: str) -> str:
    """The name of a class, or of a file, as recipes write it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).replace("_", "-").lower()


def names(folders: Iterable[str], group: str) -> list[str]:
    """What the folders of a package and an entry-point group have."""
    own = [dashed(module.name) for module in pkgutil.iter_modules(folders) if not module.ispkg]
    return sorted({*own, *importlib.metadata.entry_points(group=group).names})


def find(name: str, package: str, group: str, base: type[T]) -> type[T]:
    """The class of a name that `names` has; a file of ours comes before an entry point.

    Raises:
        InputError: the entry point names something else.
    """
    module_name = f"{package}.{name.replace('-', '_')}"
    if importlib.util.find_spec(module_name) is not None:
        module = importlib.import_module(module_name)
        (found,) = (
            value
            for _, value in inspect.getmembers(module, inspect.isclass)
            if issubclass(value, base) and value.__module__ == module_name
        )
        return found
    (entry,) = importlib.metadata.entry_points(group=group, name=name)
    return checked(entry.load(), base, f"{group}: the entry point {name} = {entry.value}", name)


def checked(found: Any, base: type[T], where: str, name: str) -> type[T]:
    """What an entry point names, if it is the class of this name.

    Raises:
        InputError: it is something else.
    """
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise InputError(f"{where} names no subclass of {base.__module__}.{base.__name__}")
    if (own := dashed(found.__name__)) != name:
        raise InputError(f"{where} names {own}; call the entry point like it")
    return found
