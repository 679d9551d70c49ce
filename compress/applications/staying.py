"""Which tokens of a picture stay: the first of the drawing, some spread over the picture, or any.

Letters: T tokens of a picture.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, nearest, shown
from compress.data.editing import first_share
from export.runtime.sampling import halton_order
from export.runtime.shape import Shape

Where = Literal["first", "spread", "random"]
WHERE: tuple[Where, ...] = ("first", "spread", "random")


def staying(shape: Shape, share: float, where: Where | None, seed: int) -> NDArray[np.bool_]:
    """Tokens (T,) that stay, a share of them: of next-scale models the first by default, else spread over the picture.

    `spread` takes the first of the Halton sequence of the grid, `random` those that the seed says; with either, what
    stays for a share stays for every greater one too.

    Raises:
        InputError: the tokens have no places in the picture, which could be spread over it.
    """
    usual: Where = "first" if shape.scales else "spread" if shape.grid[0] > 1 else "random"
    where = where or usual
    if where not in WHERE:
        raise InputError(f"where {shown(where)}: is none; {nearest(where, WHERE)}")
    if where == "first":
        return first_share(shape, share)
    if shape.scales:
        raise InputError(f"--where {where}: this model draws scale by scale, so the coarse scales stay: first")
    if where == "spread":
        if shape.grid[0] == 1:
            raise InputError(
                "--where spread: this model's tokens stand for the whole picture, not for places in it; first or random"
            )
        order = halton_order(shape.grid)
    else:
        order = np.random.Generator(np.random.Philox(key=seed)).permutation(shape.length)
    found = np.zeros(shape.length, dtype=bool)
    found[order[: round(share * shape.length)]] = True
    return found
