"""How training pictures are varied: moved, turned, scaled, mirrored, their colours exchanged.

Letters: B batch, S side of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compress.core.settings import MOST_SIDE, setting


@dataclass(frozen=True)
class AugmentSettings:
    """How pictures are varied."""

    shift: float = setting(0.0, doc="largest shift, pixels", low=0, high=MOST_SIDE)
    turn: float = setting(0.0, doc="largest turn, degrees", low=0, high=180)
    scale: float = setting(0.0, doc="largest change of size, as a share", low=0, high=0.9)
    untouched: float = setting(0.0, doc="share of pictures left as they are", low=0, high=1)
    until: float = setting(1.0, doc="share of the steps that augment; the rest see real pictures only", low=0, high=1)
    mirror: float = setting(0.0, doc="share of pictures mirrored, of those that stay what they are", low=0, high=1)
    recolour: float = setting(0.0, doc="share of pictures whose colour channels change places", low=0, high=1)


def affine_maps(
    count: int,
    side: int,
    augment: AugmentSettings,
    mirrorable: NDArray[np.bool_],
    generator: np.random.Generator,
) -> Tensor:
    """Random maps (B, 2, 3) from places in the new picture to places in the old, as `affine_grid` takes them."""
    turn, scale, right, down = generator.uniform(-1, 1, size=(4, count))
    touched = generator.random(count) >= augment.untouched
    angle, size = np.radians(turn * augment.turn) * touched, 1 + scale * augment.scale * touched
    mirrored = np.where((generator.random(count) < augment.mirror) & mirrorable, -1.0, 1.0)
    cosine, sine = np.cos(angle) / size, np.sin(angle) / size
    shift = np.stack([right, down]) * touched * augment.shift * 2 / side  # affine_grid's picture goes from -1 to 1
    maps = np.stack([cosine * mirrored, -sine, shift[0], sine * mirrored, cosine, shift[1]], axis=1)
    return torch.from_numpy(maps.reshape(count, 2, 3).astype(np.float32))


def moved(pictures: Tensor, maps: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) from 0 to 1, each moved by its map (B, 2, 3); what comes in from outside is white."""
    grid = functional.affine_grid(maps.to(pictures.device), list(pictures.shape), align_corners=False)
    return 1 - functional.grid_sample(1 - pictures, grid, mode="bilinear", align_corners=False)


def recoloured(pictures: Tensor, share: float, generator: np.random.Generator) -> Tensor:
    """Pictures (B, 3, S, S), a share of them with their colour channels in another order."""
    orders = np.tile(np.arange(3), (len(pictures), 1))
    changed = generator.random(len(pictures)) < share
    orders[changed] = generator.permuted(orders[changed], axis=1)
    places = torch.from_numpy(orders).to(pictures.device)[:, :, None, None].expand_as(pictures)
    return pictures.gather(1, places)
