"""VAR's quantizer (arXiv 2404.02905): a picture as codes of ever finer scales, each refining what the coarser ones say.

Letters: B batch, z the width of a code, K codes, h x w the finest grid, p the side of a scale, T tokens of all scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import shown
from compress.models.bounds import MOST_BLOCKS, check_sizes
from compress.models.tokenizer.codebook import Codebook, channels_last

# Two matrices between each scale and the finest one, and who sees whom of all tokens, are made with the model: 512 and
# 256 MB at most. Published scales end at 16 or 32.
FINEST = 64
MOST_OF_ALL = 2**14
MOST_RESIDUAL = 1e6


@dataclass(frozen=True)
class ScalesConfig:
    """Sides of the scales from coarse to fine, and the convolutions that smooth each scale's share.

    `residual` is the convolution's part in the mixture with what it takes; the scales share `convs` of them.
    """

    sides: tuple[int, ...]
    convs: int = 4
    residual: float = 0.5

    def __post_init__(self) -> None:
        """Refuse scales that are none.

        Raises:
            ValueError: says why.
        """
        if not self.sides or min(self.sides) < 1 or list(self.sides) != sorted(self.sides):
            raise ValueError(f"sides {shown(self.sides)}: need at least one, none finer than the next")
        if self.sides[-1] > FINEST or self.length > MOST_OF_ALL:
            raise ValueError(f"sides {shown(self.sides)}: at most {FINEST}, and {MOST_OF_ALL} tokens together")
        check_sizes(self, "convs", most=MOST_BLOCKS)
        if not abs(self.residual) < MOST_RESIDUAL:
            raise ValueError(f"residual {self.residual}: must be a number below {MOST_RESIDUAL:g}")

    @property
    def length(self) -> int:
        """Tokens of all scales."""
        return sum(side**2 for side in self.sides)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each scale's tokens begin, and their end."""
        return tuple(sum(side**2 for side in self.sides[:index]) for index in range(len(self.sides) + 1))

    def conv_of(self, scale: int) -> int:
        """Which convolution a scale uses: the one whose tick is nearest to the scale's place among all."""
        # In just these operations: two of VAR's ten scales lie between two ticks, and rounding decides for them.
        margin = 1 / 3 / self.convs if self.convs == 4 else 1 / 2 / self.convs
        ticks = np.linspace(margin, 1 - margin, self.convs)
        place = scale / (len(self.sides) - 1) if len(self.sides) > 1 else 0.0
        return int(np.argmin(np.abs(ticks - place)))


def resize_matrix(before: int, after: int, mode: str) -> Tensor:
    """Resizing p x p to q x q maps as a matrix (q q, p p), exact: resizing is linear, so unit maps show it whole."""
    units = torch.eye(before**2, dtype=torch.float64, device="cpu").reshape(-1, 1, before, before)
    resized = functional.interpolate(units, size=(after, after), mode=mode)
    return resized.reshape(before**2, after**2).T.float()


class MultiScaleQuantizer(nn.Module):
    """Codes (B, T) of all scales, and the sum of what they say (B, z, h, w)."""

    def __init__(self, codebook: Codebook, config: ScalesConfig) -> None:
        super().__init__()
        self.config = config
        self.codebook = codebook
        width, finest = codebook.embedding.embedding_dim, config.sides[-1]
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.convs))
        # Resizing to irregular sides has no exact operator in every runtime; matrices are constants of the graph.
        for index, side in enumerate(config.sides):
            self.register_buffer(f"enlarge_{index}", resize_matrix(side, finest, "bicubic"), persistent=False)
            self.register_buffer(f"shrink_{index}", resize_matrix(finest, side, "area"), persistent=False)

    @property
    def embedding(self) -> nn.Embedding:
        """The codes; `embedding.weight` is (K, z)."""
        return self.codebook.embedding

    def resize(self, maps: Tensor, name: str) -> Tensor:
        """Maps (B, z, p, p) of another side, by the matrix of this name."""
        matrix = self.get_buffer(name)  # (q q, p p)
        side = round(matrix.shape[0] ** 0.5)
        return (maps.flatten(2) @ matrix.T).unflatten(2, (side, side))

    def share(self, codes: Tensor, scale: int) -> Tensor:
        """What codes (B, p, p) of one scale add to the latents (B, z, h, w)."""
        maps = self.codebook.lookup(codes)
        if scale < len(self.config.sides) - 1:
            maps = self.resize(maps, f"enlarge_{scale}")
        part = self.config.residual
        return (1 - part) * maps + part * self.smooth[self.config.conv_of(scale)](maps)

    def codes_of(self, tokens: Tensor, scale: int) -> Tensor:
        """Codes (B, p, p) of one scale among tokens (B, T)."""
        side, start = self.config.sides[scale], self.config.starts[scale]
        return tokens[:, start : start + side**2].unflatten(1, (side, side))

    def lookup(self, tokens: Tensor) -> Tensor:
        """Latents (B, z, h, w) that tokens (B, T) stand for."""
        return torch.stack([self.share(self.codes_of(tokens, s), s) for s in range(len(self.config.sides))]).sum(0)

    def features(self, tokens: Tensor) -> Tensor:
        """What a transformer is told (B, T - 1, z) while it draws the scales behind the first, of tokens (B, T).

        The rows of a scale show the latents so far at that scale's size; they depend on coarser scales only, so tokens
        that are not known yet may be anything valid, or missing: then there are only rows of scales that are told all.
        """
        latents: Tensor | None = None
        rows = []
        for scale in range(len(self.config.sides) - 1):
            if self.config.starts[scale + 1] > tokens.shape[1]:
                break
            share = self.share(self.codes_of(tokens, scale), scale)
            latents = share if latents is None else latents + share
            rows.append(self.shown(latents, scale + 1).flatten(1, 2))
        return torch.cat(rows, dim=1)

    def shown(self, latents: Tensor, scale: int) -> Tensor:
        """The latents (B, z, h, w) at a scale's size, (B, p, p, z)."""
        last = scale == len(self.config.sides) - 1
        return channels_last(latents if last else self.resize(latents, f"shrink_{scale}"))

    def quantize(self, latents: Tensor) -> Tensor:
        """Tokens (B, T) of latents (B, z, h, w): each scale takes what is nearest to what the coarser ones left."""
        left, tokens = latents, []
        for scale in range(len(self.config.sides)):
            codes = self.codebook.nearest(self.shown(left, scale))  # (B, p, p)
            left = left - self.share(codes, scale)
            tokens.append(codes.flatten(1))
        return torch.cat(tokens, dim=1)
