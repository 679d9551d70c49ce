"""What the families of published checkpoints share: numbers that weights do not say, read from what is stated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compress.models.checkpoint import Checkpoint
from compress.settings import InputError, shown


def stated(checkpoint: Checkpoint, *keys: str) -> int | None:
    """The first of these keys that config.json or the user states, as a whole number of at least 1.

    Raises:
        InputError: it is something else.
    """
    for key in keys:
        value = checkpoint.config.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{checkpoint.path}: config.{key}: {shown(value)} is not a whole number of at least 1")
        return value
    return None


def heads_of(checkpoint: Checkpoint, key: str, width: int, published: Mapping[int, int]) -> int:
    """The attention heads: stated, or those of the published model of this width.

    Raises:
        InputError: neither, or they do not divide the width.
    """
    heads = stated(checkpoint, key) or published.get(width)
    if heads is None:
        known = ", ".join(map(str, published)) or "none"
        raise InputError(
            f"{checkpoint.path}: weights do not say the number of heads, and width {width} is no published "
            f"one ({known}); state config.{key}"
        )
    return heads


def grid_of(checkpoint: Checkpoint, tokens_key: str, factor: int, default: int = 16) -> tuple[int, int]:
    """The grid of tokens: `grid`, or a square of the tokens under `tokens_key`, or `image_size` over `factor`.

    Raises:
        InputError: it is no pair of whole numbers, the tokens are no square, or the size is no multiple of the factor.
    """
    grid = checkpoint.config.get("grid")
    if grid is not None:
        if not isinstance(grid, (list, tuple)) or len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid):
            raise InputError(f"{checkpoint.path}: config.grid: {shown(grid)} is not a pair of whole numbers")
        return int(grid[0]), int(grid[1])
    tokens = stated(checkpoint, tokens_key) if tokens_key else None
    if tokens is not None:
        side = math.isqrt(tokens)
        if side * side != tokens:
            raise InputError(f"{checkpoint.path}: config.{tokens_key}: {tokens} is not a square; state config.grid")
        return side, side
    size = stated(checkpoint, "image_size")
    if size is None:
        return default, default
    if size % factor:
        raise InputError(
            f"{checkpoint.path}: config.image_size: {size} is not a multiple of {factor}, a token's pixels"
        )
    return size // factor, size // factor
