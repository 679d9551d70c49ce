"""The image tokenizer of a checkpoint: the one that is named, or the one that it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.settings import InputError
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.recognition import recognise, without_prefix
from compress.models.checkpoints.source import Source, is_own, locate

if TYPE_CHECKING:
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.tokenizer.model import Tokenizer
    from compress.models.transformer.architecture import TransformerConfig

StandIn = Callable[["TransformerConfig"], "Tokenizer"]


def tokenizer_of(
    checkpoint: Checkpoint,
    source: Source,
    family: TorchFamily,
    config: TransformerConfig,
    where: str,
    stand_in: StandIn | None = None,
) -> Tokenizer:
    """The tokenizer that the source names, or that the checkpoint brings.

    Raises:
        InputError: there is none, or it does not have the transformer's tokens.
    """
    if source.tokenizer:
        path = locate(source.tokenizer, f"{where}.tokenizer")
        if (own := family.read_tokenizer(path, config)) is not None:
            tokenizer = own
        else:
            tokenizer = read_tokenizer(path, {"grid": list(config.grid)}, f"{where}.tokenizer")
    else:
        brought = family.tokenizer(checkpoint, config)
        if brought is None and stand_in is not None and not family.needs_tokenizer:
            return stand_in(config)
        if brought is None:
            raise InputError(f"{where}.tokenizer: this checkpoint brings no image tokenizer; {family.tokenizer_advice}")
        tokenizer = brought
    for what in ("vocabulary", "length"):
        found, wanted = getattr(tokenizer, what), getattr(config, what)
        if found != wanted:
            raise InputError(f"{where}.tokenizer: its {what} is {found}; the transformer's is {wanted}")
    return tokenizer


def read_tokenizer(path: Path, stated: Mapping[str, Any], where: str) -> Tokenizer:
    """The image tokenizer in a folder or file, in our format or a published one; `stated` is what the user knows of it.

    Raises:
        InputError: it is none, or incomplete.
    """
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.tokenizer import formats, tokenizer_folder

    if tokenizer_folder.is_one(path):
        return tokenizer_folder.load(path)
    opened = without_prefix(Checkpoint.open(path, dict(stated), weights=None))
    return formats.read(opened, opened.config, f"{where}: {path}")


def is_tokenizer(path: Path) -> bool:
    """Whether a path holds an image tokenizer and no transformer, by the names of its tensors."""
    from compress.models.checkpoints.checkpoint import Checkpoint
    from compress.models.tokenizer import formats, tokenizer_folder

    if tokenizer_folder.is_one(path) or is_own(path):
        return not is_own(path)
    try:
        opened = without_prefix(Checkpoint.open(path, {}, weights=None))
    except InputError:
        return False  # whoever opens it as a model says what is wrong
    return recognise(opened) is None and formats.recognise(opened) is not None
