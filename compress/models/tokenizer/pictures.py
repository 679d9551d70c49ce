"""Tokens to pictures and back as modules that export to ONNX: through a palette, or through an autoencoder.

Letters: B batch, H x W pixels, C colour channels, T tokens of a picture, K colours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.models.tokenizer.titok import TitokAutoencoder
from compress.models.tokenizer.vq import VqAutoencoder

Autoencoder = VqAutoencoder | TitokAutoencoder


def rounded(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values as the nearest of 0 to 255."""
    return values.clip(0, 255).round().astype(np.uint8)


class PaletteDecoder(nn.Module):
    """Tokens (B, T) to pictures: the colour of each."""

    colours: Tensor
    levels: Tensor

    def __init__(self, colours: NDArray[np.float32], grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("colours", torch.from_numpy(colours / np.float32(255)))
        self.register_buffer("levels", torch.from_numpy(rounded(colours)))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.levels[tokens].unflatten(1, self.grid), self.colours[tokens].unflatten(1, self.grid)


class PaletteEncoder(nn.Module):
    """Pictures uint8 (B, H, W, C) to tokens (B, T): the nearest colour of each pixel, the first of equals."""

    colours: Tensor

    def __init__(self, colours: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("colours", torch.from_numpy(colours))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1, 2).unsqueeze(2).to(torch.float32)  # (B, T, 1, C)
        # Differences before squares: expanding the square would lose what tells near colours apart.
        return torch.argmin((pixels - self.colours).square().sum(dim=-1), dim=-1)


class VqDecoder(nn.Module):
    """Tokens (B, T) to pictures through an autoencoder."""

    def __init__(self, autoencoder: Autoencoder, code_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.code_shape = code_shape

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        codes = tokens.unflatten(1, self.code_shape)
        pixels = self.autoencoder.decode(self.autoencoder.lookup(codes)).permute(0, 2, 3, 1)  # (B, H, W, 3)
        if self.autoencoder.config.pixel_range == "signed":
            pixels = pixels * 0.5 + 0.5
        return (pixels.clamp(0, 1) * 255).round().to(torch.uint8), pixels


class VqEncoder(nn.Module):
    """Pictures uint8 (B, H, W, 3) to tokens (B, T) through an autoencoder."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        if self.autoencoder.config.pixel_range == "signed":
            pixels = pixels * 2 - 1
        return self.autoencoder.quantize(self.autoencoder.latents(pixels)).flatten(1)
