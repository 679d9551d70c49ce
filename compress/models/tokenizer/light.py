"""A light image decoder: its work is done at low resolution, and a last convolution makes several pixels at once.

Letters: B batch, C channels, h x w the latent grid, z the width of a latent, s the side of the pixels of one place.

The parts at the latents' resolution are residual blocks as every VQ decoder has them, so they can begin as another
decoder's. Finer levels have no normalization: two convolutions and a ReLU beside the input, which int8 kernels compute
without leaving int8 (as EDSR, arXiv 1707.02921, found for super-resolution, nothing is lost by it). Resolution grows by
sub-pixel convolutions (arXiv 1609.05158), which compute at the lower one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import shown

MOST_CHANNELS = 2**13
MOST_LIGHT_BLOCKS = 64
UPSCALE = 2  # of one level to the next
SMALL_START = 0.1  # of the weights at a plain block's end, so that blocks begin near the identity


@dataclass(frozen=True)
class LightConfig:
    """Widths and residual blocks of the levels, from the latents' resolution up; each is twice as fine as the last.

    Finer resolutions than the last level's have no level of their own: the last convolution makes their pixels.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse numbers that no decoder has.

        Raises:
            ValueError: says which.
        """
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(
                f"light: channels {shown(self.channels)} and blocks {shown(self.blocks)}: need one each a level, "
                "at least one level"
            )
        for what, values, least, most in (
            ("channels", self.channels, 1, MOST_CHANNELS),
            ("blocks", self.blocks, 0, MOST_LIGHT_BLOCKS),
        ):
            for value in values:
                if type(value) is not int or not least <= value <= most:
                    raise ValueError(f"light: {shown(value)} {what}: must be a whole number from {least} to {most}")


class PlainBlock(nn.Module):
    """Two convolutions and a ReLU beside the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(SMALL_START)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(functional.relu(self.conv1(x)))


class SubPixel(nn.Module):
    """A convolution whose outputs (B, C s s, h, w) become the s x s pixels of each place (B, C, h s, w s)."""

    def __init__(self, before: int, after: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(before, after * scale**2, 3, padding=1)
        with torch.no_grad():  # all pixels of a place begin alike, as those of a nearest neighbour would
            for tensor in (self.conv.weight, self.conv.bias):
                assert tensor is not None
                tensor.copy_(tensor[:: scale**2].repeat_interleave(scale**2, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return functional.pixel_shuffle(x, self.scale) if self.scale > 1 else x


class LightLevel(nn.Module):
    """Twice the resolution, then plain blocks."""

    def __init__(self, before: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.up = SubPixel(before, channels, UPSCALE)
        self.blocks = nn.Sequential(*(PlainBlock(channels) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.up(x))


class LightDecoder(nn.Module):
    """Features (B, z, h, w) to pixels (B, 3, H, W); `residual_block(before, after)` makes those of the first level."""

    def __init__(
        self, config: LightConfig, latent_width: int, factor: int, residual_block: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        first = config.channels[0]
        self.stem = nn.Conv2d(latent_width, first, 3, padding=1)
        self.first = nn.Sequential(*(residual_block(first, first) for _ in range(config.blocks[0])))
        self.levels = nn.Sequential(
            *(
                LightLevel(before, after, blocks)
                for (before, after), blocks in zip(pairwise(config.channels), config.blocks[1:], strict=True)
            )
        )
        scale = factor // UPSCALE ** (len(config.channels) - 1)
        self.head = SubPixel(config.channels[-1], 3, scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.levels(self.first(self.stem(x))))
