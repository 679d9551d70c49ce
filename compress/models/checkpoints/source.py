"""Where a model comes from: a shipped name or a path, and what is stated beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.core.settings import InputError, nearest, setting, shown
from compress.core.user_files import user_path
from compress.models import zoo

OWN = "reference"  # the family of the project's own format
CHOICES = ("weights", "prefix")  # keys of a config that say which of a file's tensors to read


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    checkpoint: str = setting(doc="a shipped model's name, or the path of a weights file or folder")
    family: str = setting("", doc="the checkpoint's format; recognised from its names if not given")
    tokenizer: str = setting("", doc="the image tokenizer's weights, where the checkpoint does not bring them")
    config: dict[str, Any] = field(
        default_factory=dict, metadata={"doc": "what the weights do not say, or config.json says wrongly"}
    )

    def stating(self, family: str, tokenizer: str, config: Mapping[str, Any]) -> Source:
        """The same checkpoint, with what is given here before what was said already."""
        return Source(self.checkpoint, family or self.family, tokenizer or self.tokenizer, {**self.config, **config})


def locate(checkpoint: str, where: str) -> Path:
    """The path of a shipped model's name, or of a file or folder.

    Raises:
        InputError: it is neither.
    """
    if checkpoint in zoo.folders():
        return zoo.ROOT / checkpoint
    path = user_path(checkpoint, where)
    try:
        found = path.exists()
    except OSError as error:  # a name that is too long, links in a circle
        raise InputError(f"{where}: {shown(checkpoint)}: {error.strerror}") from error
    if not found:
        raise InputError(
            f"{where}: {shown(checkpoint)} is neither a file or folder nor a shipped model; "
            f"{nearest(checkpoint[:200], zoo.names())}"
        )
    return path


def is_own(path: Path) -> bool:
    """Whether a folder is in the project's own format, by its config."""
    from compress.models.checkpoints.layouts import CONFIG, read_config

    config = read_config(path / CONFIG) if path.is_dir() else {}
    return "format" in config and "transformer" in config


def check_own(source: Source, where: str) -> None:
    """Refuse what a checkpoint in the project's own format says itself.

    Raises:
        InputError: names it.
    """
    for key in ("tokenizer", "config"):
        if getattr(source, key):
            raise InputError(f"{where}.{key}: a checkpoint of this project's format brings its own; leave it out")


def check_stated(source: Source, keys: Sequence[str], where: str, name: str) -> None:
    """Refuse keys of the config that the family or image tokenizer does not read.

    Raises:
        InputError: names the first, and the nearest that is read.
    """
    for key in source.config:
        if key not in (*keys, *CHOICES):
            raise InputError(f"{where}: {name} reads no key {key[:100]!r}; {nearest(key[:100], [*keys, *CHOICES])}")
