"""What a reference's image decoder teaches: its pixels of token grids, each decoded once, and how far a student is.

Letters: B batch, N pictures, T tokens of a picture, z the width of a latent, h x w the latent grid, H x W pixels.

Errors are of pixels from -1 to 1, whatever range the autoencoder has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from compress.measure.pictures.decoding import clamped, psnr
from compress.models.tokenizer.vq import VqAutoencoder

MOST_BYTES = 2**29  # of pixels that are remembered; pictures beyond it are decoded again whenever they are drawn
HALVINGS = 2  # how often pixels are averaged for the errors of coarser scales: 2x2 and 4x4


@dataclass(frozen=True)
class PictureWeights:
    """What counts in the loss beside the mean squared error."""

    absolute: float
    coarse: float
    edges: float


def picture_loss(made: Tensor, wanted: Tensor, weights: PictureWeights) -> Tensor:
    """The loss of pixels (B, 3, H, W) from -1 to 1.

    Squared error, absolute error, squared errors of pixels averaged over 2x2 and 4x4, and the absolute error of
    differences between neighbours.
    """
    error = made - wanted
    loss = error.square().mean() + weights.absolute * error.abs().mean()
    if weights.edges:
        loss = loss + weights.edges * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    if weights.coarse:
        for _ in range(HALVINGS):
            error = functional.avg_pool2d(error, 2)
            loss = loss + weights.coarse * error.square().mean()
    return loss


def seen(pixels: Tensor) -> NDArray[np.float64]:
    """Pixels (B, 3, H, W) from -1 to 1 as they are seen, from 0 to 1."""
    return clamped(((pixels + 1) / 2).numpy())


def picture_bytes(autoencoder: VqAutoencoder, grid: tuple[int, int]) -> int:
    """What remembering one picture takes: three colours in half precision."""
    height, width = autoencoder.size_of(grid)
    return 2 * 3 * height * width


class DecoderTeacher:
    """A reference's decoder, asked once for every picture as far as memory allows.

    It decodes one picture at a time, so what it says does not depend on what is drawn beside it.
    """

    def __init__(self, autoencoder: VqAutoencoder, grid: tuple[int, int], tokens: NDArray[np.int64]) -> None:
        self.autoencoder, self.tokens = autoencoder, tokens
        self.code_shape = autoencoder.code_shape(grid)
        self.room = MOST_BYTES // picture_bytes(autoencoder, grid)
        self.known: dict[int, Tensor] = {}

    def features(self, rows: Sequence[int]) -> Tensor:
        """What the decoder reads (B, z, h, w) of these pictures."""
        codes = torch.from_numpy(self.tokens[list(rows)]).unflatten(1, self.code_shape)
        with torch.no_grad():
            features: Tensor = self.autoencoder.after_codes(self.autoencoder.lookup(codes))
        return features

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """The reference's pixels (B, 3, H, W) of these pictures, from -1 to 1, rounded to half precision."""
        return torch.stack([self.one(row) for row in rows]).float()

    def one(self, row: int) -> Tensor:
        """The pixels (3, H, W) of one picture, remembered while there is room."""
        if row in self.known:
            return self.known[row]
        with torch.no_grad():
            pixels = in_signed_range(self.autoencoder.decoder(self.features([row]))[0], self.autoencoder).half()
        if len(self.known) < self.room:
            self.known[row] = pixels
        return pixels


def in_signed_range(pixels: Tensor, autoencoder: VqAutoencoder) -> Tensor:
    """Pixels of the autoencoder's range as -1 to 1."""
    return pixels if autoencoder.config.pixel_range == "signed" else pixels * 2 - 1


class PictureDistance:
    """The negative mean PSNR of a student's pixels on pictures (N, T), dB: the lower, the nearer to the reference."""

    def __init__(self, teacher: DecoderTeacher) -> None:
        self.teacher = teacher

    def __call__(self, student: nn.Module) -> float:
        """The distance of a student; NaN where its pixels are no numbers."""
        found = []
        with torch.no_grad():
            for row in range(len(self.teacher.tokens)):
                made = in_signed_range(student(self.teacher.features([row])), self.teacher.autoencoder)
                if bool(made.isnan().any()):
                    return math.nan
                found.append(psnr(seen(made), seen(self.teacher([row]))))
        return -float(np.mean(found))
