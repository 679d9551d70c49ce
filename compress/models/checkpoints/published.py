"""What the families of published checkpoints share: numbers that weights do not say, read from what is stated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.bounds import HUGE, MOST_TOKENS
from compress.models.checkpoints.checkpoint import Checkpoint

LARGEST = 2**31 - 1  # of a whole number that is stated


def stated(checkpoint: Checkpoint, *keys: str, least: int = 1) -> int | None:
    """The first of these keys that config.json or the user states, as a whole number of at least `least`.

    Raises:
        InputError: it is something else.
    """
    for key in keys:
        value = checkpoint.config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(
                f"{checkpoint.path}: config.{key}: {shown(value)} is not a whole number of at least {least}"
            )
        if value > LARGEST:
            raise InputError(f"{checkpoint.path}: config.{key}: {shown(value)} is more than {LARGEST}")
        return value
    return None


def number(checkpoint: Checkpoint, key: str, default: float) -> float:
    """A number above 0 that config.json or the user states.

    Raises:
        InputError: it is something else.
    """
    value = checkpoint.config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < HUGE:
        raise InputError(f"{checkpoint.path}: config.{key}: {shown(value)} is not a number above 0")
    return float(value)


def truth(checkpoint: Checkpoint, key: str, default: bool) -> bool:
    """True or false, as config.json or the user states.

    Raises:
        InputError: it is something else.
    """
    value = checkpoint.config.get(key, default)
    if not isinstance(value, bool):
        raise InputError(f"{checkpoint.path}: config.{key}: {shown(value)} is not true or false")
    return value


def nested(checkpoint: Checkpoint, *keys: str) -> Checkpoint:
    """The checkpoint with the mapping under these keys of its config, one in the other, on the config's top level.

    Raises:
        InputError: there is something else than a mapping.
    """
    inner: object = checkpoint.config
    for depth, key in enumerate(keys):
        assert isinstance(inner, Mapping)
        inner = inner.get(key, {})
        if not isinstance(inner, Mapping):
            place = ".".join(keys[: depth + 1])
            raise InputError(f"{checkpoint.path}: config.{place}: {shown(inner)} is not a mapping")
    assert isinstance(inner, Mapping)
    return checkpoint.stating({**inner, **checkpoint.config})


def layers_of(checkpoint: Checkpoint, key: str, prefix: str) -> int:
    """How many layers the names have; as many as are stated, where they are.

    Raises:
        InputError: the names have another number, so a part of the checkpoint is missing.
    """
    found, said = checkpoint.numbers(prefix), stated(checkpoint, key)
    if said is not None and said != found:
        raise InputError(
            f"{checkpoint.path}: config.{key}: {said} layers; the file holds {found}"
            + (f", and no tensor '{prefix}.{found}.*'" if found < said else "")
        )
    return found


def classes_of(checkpoint: Checkpoint, key: str, classes: int) -> int:
    """The classes that a table has besides the null class; as many as are stated, where they are.

    Raises:
        InputError: another number is stated, so that the null class would be another row.
    """
    said = stated(checkpoint, key)
    if said is not None and said != classes:
        raise InputError(
            f"{checkpoint.path}: config.{key}: {said} classes; the table has rows for {classes} and a null class"
        )
    return classes


def added(table: Tensor, other: Tensor) -> Tensor:
    """The sum of two tensors of the same shape; one of another shape could be spread over the first in silence.

    Raises:
        ValueError: the shapes differ.
    """
    if table.shape != other.shape:
        raise ValueError(f"{tuple(other.shape)} cannot be added to {tuple(table.shape)}")
    return table + other


def heads_of(
    checkpoint: Checkpoint, key: str, width: int, published: Mapping[int, int], joined: int | None = None
) -> int:
    """The attention heads: stated, or those of the published model of this width.

    `joined` is the width of all heads together, where it is not the model's.

    Raises:
        InputError: neither, or they do not divide the width.
    """
    joined = width if joined is None else joined
    heads = stated(checkpoint, key) or published.get(width)
    if heads is None:
        known = ", ".join(map(str, published)) or "none"
        raise InputError(
            f"{checkpoint.path}: weights do not say the number of heads, and width {width} is no published "
            f"one ({known}); state config.{key}"
        )
    if joined % heads:
        raise InputError(f"{checkpoint.path}: config.{key}: {heads} heads do not divide the width {joined}")
    return heads


def grid_of(checkpoint: Checkpoint, tokens_key: str, factor: int, default: int = 16) -> tuple[int, int]:
    """The grid of tokens: `grid`, or a square of the tokens under `tokens_key`, or `image_size` over `factor`.

    Raises:
        InputError: it is no pair of whole numbers, the tokens are no square, or the size is no multiple of the factor.
    """
    grid = checkpoint.config.get("grid")
    if grid is not None:
        if not isinstance(grid, (list, tuple)) or len(grid) != 2 or not all(type(n) is int and n > 0 for n in grid):
            raise InputError(f"{checkpoint.path}: config.grid: {shown(grid)} is not a pair of whole numbers")
        return bounded(checkpoint, "grid", (grid[0], grid[1]))
    tokens = stated(checkpoint, tokens_key) if tokens_key else None
    if tokens is not None:
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise InputError(f"{checkpoint.path}: config.{tokens_key}: {tokens} is not a square; state config.grid")
        return bounded(checkpoint, tokens_key, (side, side))
    size = stated(checkpoint, "image_size")
    if size is None:
        return default, default
    if size % factor:
        raise InputError(
            f"{checkpoint.path}: config.image_size: {size} is not a multiple of {factor}, a token's pixels"
        )
    return bounded(checkpoint, "image_size", (size // factor, size // factor))


def bounded(checkpoint: Checkpoint, key: str, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid, if a picture has not too many tokens.

    Raises:
        InputError: it has more than MOST_TOKENS.
    """
    if grid[0] * grid[1] > MOST_TOKENS:
        raise InputError(f"{checkpoint.path}: config.{key}: a grid of {shown(grid)} has more than {MOST_TOKENS} tokens")
    return grid
