"""What a step of `compress train` reads: tokens of a TokenSet, or pictures that are varied anew and encoded.

Letters: B batch, T tokens of a picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.augment import Augment, augmented
from calibration.tokens import TokenSet
from compress.core.settings import InputError
from compress.models.tokenizer.model import Tokenizer, VqTokenizer
from compress.training.augment import AugmentSettings
from compress.training.pictures import PictureSource

if TYPE_CHECKING:
    from compress.training.transformer import TrainRecipe


class Batches(Protocol):
    """What a training reads: all its data, and those of a step."""

    data: TokenSet

    def batch(self, step: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens (B, T) and classes (B,) of a step."""


class TokenBatches:
    """Of a TokenSet; grey levels are varied as the recipe says."""

    def __init__(self, recipe: TrainRecipe, data: TokenSet) -> None:
        self.recipe, self.data, self.training = recipe, data, data.part("train")

    def batch(self, step: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        settings, model, augment = self.recipe.train, self.recipe.model, self.recipe.augment
        batch = self.training.take(generator.choice(len(self.training), size=settings.batch, replace=False))
        if augment == AugmentSettings() or step >= augment.until * settings.steps:
            return batch.tokens, batch.labels
        change = Augment(augment.shift, augment.turn, augment.scale, augment.untouched)
        return augmented(batch.tokens, model.grid, model.vocabulary, change, generator), batch.labels


class EncodedPictures:
    """Of pictures, varied anew at every step and encoded; validation and held-out pictures are as they are.

    Only the `rows` of a batch that are read are encoded; the others' tokens are 0.
    """

    def __init__(self, recipe: TrainRecipe, source: PictureSource, tokenizer: Tokenizer, rows: slice) -> None:
        self.recipe, self.source, self.tokenizer, self.rows = recipe, source, tokenizer, rows
        encoder, side = tokenizer.encoder(), tokenizer.picture[0]
        if encoder is None or tokenizer.picture[:2] != (source.side,) * 2:
            raise InputError(f"{recipe.name}: pictures: {recipe.pictures} are {source.side} pixels wide; "
                             f"the tokenizer encodes {f'{side} pixels' if encoder else 'nothing'}")  # fmt: skip
        self.encoder = encoder
        parts = [source.part(name) for name in ("validation", "held_out")]
        tokens = np.concatenate([tokenizer.encode(pictures) for pictures, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        parts_of = np.repeat([1, 2], [len(labels) for _, labels in parts])
        self.data = TokenSet(tokens, labels, parts_of, class_names=source.classes)

    def batch(self, step: int, generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        settings, augment = self.recipe.train, self.recipe.augment
        change = augment if step < augment.until * settings.steps else AugmentSettings()
        pictures, labels = self.source.batch(settings.batch, self.source.side, change, generator)
        tokens = np.zeros((len(labels), self.data.tokens.shape[1]), dtype=np.int64)
        with torch.no_grad():
            tokens[self.rows] = self.encoder(pictures[self.rows]).cpu().numpy()
        return tokens, labels


def on_device(tokenizer: Tokenizer, device: torch.device) -> Tokenizer:
    """The tokenizer, with its weights there."""
    if isinstance(tokenizer, VqTokenizer):
        tokenizer.autoencoder.to(device)
    return tokenizer
