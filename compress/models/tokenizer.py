"""Tokenizers: pictures to tokens and back.

Letters: N pictures, h x w the token grid, T = h * w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PixelTokenizer:
    """One token per pixel: its grey level, 0 to levels - 1."""

    levels: int
    grid: tuple[int, int]

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of grey pictures (N, h, w) with values 0 to 255."""
        if images.shape[1:] != self.grid:
            raise ValueError(f"pictures are {images.shape[1:]}; the tokenizer's grid is {self.grid}")
        return np.rint(images.reshape(len(images), -1) * ((self.levels - 1) / 255)).astype(np.int64)

    def decode(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, h, w, 1) of tokens (N, T)."""
        return self.palette()[tokens].reshape(len(tokens), *self.grid, 1)

    def palette(self) -> NDArray[np.uint8]:
        """Grey value of each level (levels,)."""
        return np.rint(np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.uint8)
