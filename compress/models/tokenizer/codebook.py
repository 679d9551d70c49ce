"""A codebook: the nearest code of each latent, and the latent of each code.

Letters: B batch, K codes, z their width, h x w the latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, h, w) as (B, h, w, C)."""
    return x.permute(0, 2, 3, 1)


def channels_first(x: Tensor) -> Tensor:
    """x (B, h, w, C) as (B, C, h, w)."""
    return x.permute(0, 3, 1, 2)


class Codebook(nn.Module):
    """K vectors; with `normalised`, latents and codes are compared, and looked up, on the unit sphere."""

    def __init__(self, codes: int, width: int, *, normalised: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)
        self.normalised = normalised

    def vectors(self) -> Tensor:
        """The codes as they are looked up (K, z)."""
        return functional.normalize(self.embedding.weight, dim=-1) if self.normalised else self.embedding.weight

    def nearest(self, points: Tensor) -> Tensor:
        """Codes (...) int64 that are nearest to the points (..., z)."""
        if self.normalised:
            points = functional.normalize(points, dim=-1)
        codes = self.vectors()
        # The point's own length is the same for every code, so it does not decide.
        distances = codes.square().sum(dim=-1) - 2 * (points @ codes.T)  # (..., K)
        return torch.argmin(distances, dim=-1)

    def quantize(self, latents: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of latents (B, z, h, w)."""
        return self.nearest(channels_last(latents))

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents (B, z, h, w) of codes (B, h, w)."""
        return channels_first(functional.embedding(codes, self.vectors()))
