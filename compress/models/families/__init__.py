"""A family reads one checkpoint format into an ImageModel, with its tokenizer and sampler; each file here is one.

A family module has `load(folder: Path) -> ImageModel`; its first docstring line is what `compress models` prints.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from compress.models import zoo
from compress.settings import InputError, nearest

if TYPE_CHECKING:
    from compress.models.image_model import ImageModel


def names() -> list[str]:
    """Every family that can be named in a recipe."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def locate(checkpoint: str, where: str) -> Path:
    """The folder of a shipped model's name, or of a path.

    Raises:
        InputError: it is neither.
    """
    if checkpoint in zoo.names():
        return zoo.ROOT / checkpoint
    folder = Path(checkpoint).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"{where}: {checkpoint!r} is neither a folder nor a shipped model; {nearest(checkpoint, zoo.names())}"
        )
    return folder


def load(family: str, checkpoint: str, where: str) -> ImageModel:
    """Read a checkpoint with the family of this name."""
    if family not in names():
        raise InputError(f"{where}.family: {family!r} is not a family; {nearest(family, names())}")
    folder = locate(checkpoint, f"{where}.checkpoint")
    return importlib.import_module(f"{__name__}.{family.replace('-', '_')}").load(folder)
