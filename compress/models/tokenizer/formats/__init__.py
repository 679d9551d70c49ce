"""A tokenizer format reads published weights into a Tokenizer; each file here is one.

A module has `matches(state) -> bool`, which looks at names only, and `read(state, config) -> Tokenizer`, which reads
every tensor once and says by an InputError which one is missing or of another shape.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.core.settings import InputError
from compress.models.tokenizer.model import Tokenizer


def names() -> list[str]:
    """Every format."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The format that these names are of, if any."""
    return next((name for name in names() if module_of(name).matches(state)), None)


def read(state: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of published weights; `where` names their place in messages.

    Raises:
        InputError: no format has such names, or the one that has is not complete.
    """
    name = recognise(state)
    if name is None:
        raise InputError(f"{where}: the tensors' names are of no known tokenizer; known: {', '.join(names())}")
    try:
        tokenizer: Tokenizer = module_of(name).read(state, config)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return tokenizer


def keys_of(name: str) -> tuple[str, ...]:
    """The keys of config.json that a format reads."""
    keys: tuple[str, ...] = module_of(name).KEYS
    return keys


def module_of(name: str) -> Any:
    """The module of a format."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
