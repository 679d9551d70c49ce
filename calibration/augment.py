"""Small random affine changes of pictures whose tokens are grey levels.

Letters: B pictures, T tokens of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


@dataclass(frozen=True)
class Augment:
    """Largest shift in pixels, turn in degrees, and change of scale as a share; the share of pictures left alone."""

    shift: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    untouched: float = 0.0


def augmented(
    tokens: NDArray[np.int64], grid: tuple[int, int], levels: int, change: Augment, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Pictures (B, T), each moved by its own random affine map with cubic interpolation, rounded back to levels."""
    result = tokens.copy()
    centre = (np.array(grid) - 1) / 2
    for row, picture in enumerate(tokens.reshape(-1, *grid)):
        alone, angle, *rest = generator.uniform(-1, 1, size=6)
        if (alone + 1) / 2 < change.untouched:
            continue
        shift, scale = np.array(rest[:2]) * change.shift, 1 + np.array(rest[2:]) * change.scale
        cosine, sine = np.cos(np.radians(angle * change.turn)), np.sin(np.radians(angle * change.turn))
        matrix = np.array([[cosine, -sine], [sine, cosine]]) / scale
        moved = ndimage.affine_transform(picture.astype(float), matrix, centre - matrix @ (centre + shift), order=3)
        result[row] = np.clip(np.rint(moved), 0, levels - 1).astype(np.int64).ravel()
    return result
