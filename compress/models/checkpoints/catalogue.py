"""Which families there are: the files of `compress/models/families/`, and those of third parties."""

from __future__ import annotations

import sys
from pathlib import Path

from compress.core import registry
from compress.core.settings import InputError, nearest, shown
from compress.models.checkpoints.family import Family, GraphFamily, TorchFamily
from compress.models.checkpoints.source import OWN, Source, is_own, locate

PACKAGE = "compress.models.families"
FOLDER = Path(__file__).parents[1] / "families"
ENTRY_POINTS = "compress.families"


def names() -> list[str]:
    """Every family that can be named in a recipe."""
    return registry.names([str(FOLDER)], ENTRY_POINTS)


def find(name: str) -> Family:
    """The family of this name, which `names` has."""
    return registry.find(name, PACKAGE, ENTRY_POINTS, Family)()


def torch_family(name: str) -> TorchFamily:
    """The family of this name, which is one of `published`."""
    found = find(name)
    assert isinstance(found, TorchFamily)
    return found


def document(name: str) -> str:
    """What the file of a family says of it."""
    return sys.modules[type(find(name)).__module__].__doc__ or ""


def published() -> list[str]:
    """The families that read a published checkpoint into the one transformer."""
    return [name for name in names() if isinstance(find(name), TorchFamily)]


def graph_family(source: Source, path: Path) -> GraphFamily | None:
    """The family that reads a checkpoint as an ONNX graph, if one does; no weight is read."""
    if not source.family and is_own(path):
        return None
    found = [find(source.family)] if source.family else map(find, names())
    graphs = (each for each in found if isinstance(each, GraphFamily))
    return next((each for each in graphs if source.family or each.fits(path)), None)


def readers(source: Source, path: Path) -> list[str]:
    """The modules that read a checkpoint and its tokenizer; all families where its names decide which."""
    if source.family == OWN or (not source.family and is_own(path)):
        return [f"{PACKAGE}.{OWN}"]
    family = graph_family(source, path) or (find(source.family) if source.family else None)
    return [type(family).__module__ if family else PACKAGE, "compress.models.tokenizer.formats"]


def checked_path(source: Source, where: str) -> Path:
    """The checkpoint's path, if the family and every path that is named exist; nothing is read.

    Raises:
        InputError: names what does not.
    """
    if source.family and source.family not in names():
        raise InputError(f"{where}.family: {shown(source.family)} is not a family; {nearest(source.family, names())}")
    if source.tokenizer:
        locate(source.tokenizer, f"{where}.tokenizer")
    return locate(source.checkpoint, f"{where}.checkpoint")
