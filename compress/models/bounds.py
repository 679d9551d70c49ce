"""How large the numbers of a model's config may be: beyond every model, and small enough for a tensor's size.

A config is read before the weights that have to agree with it, so nothing may be made of a number that no model has.
"""

from __future__ import annotations

from typing import Any

from compress.core.settings import shown

MOST = 2**24  # of a width or count; products of two and a small factor fit a size that PyTorch can say
MOST_TOKENS = 2**20  # of a picture: 1024 x 1024
MOST_TABLE = 2**26  # numbers of a table that is computed when the model is made: 256 MB
MOST_BLOCKS = 1024  # layers that are a number of the config, and not a list in it
HUGE = 1e30  # no number that is stated reaches it, and fp32 holds it


def check_sizes(config: Any, *names: str, least: int = 1, most: int = MOST) -> None:
    """Hold fields that are whole numbers to a closed range.

    Raises:
        ValueError: names the first that is outside.
    """
    for name in names:
        if not least <= (number := getattr(config, name)) <= most:
            wanted = f"at least {least}" if number < least else f"at most {most}"
            raise ValueError(f"{name} {shown(number)}: must be {wanted}")


def check_epsilon(epsilon: float) -> None:
    """Refuse what no norm adds to a variance.

    Raises:
        ValueError: it is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"norm_epsilon {epsilon}: must be between 0 and 1")


def check_grid(grid: tuple[int, int]) -> None:
    """Refuse a grid without tokens, or with more than a picture has.

    Raises:
        ValueError: says what it is.
    """
    if min(grid) < 1 or grid[0] * grid[1] > MOST_TOKENS:
        raise ValueError(f"grid {shown(grid)}: needs sides of at least 1, and at most {MOST_TOKENS} tokens")
