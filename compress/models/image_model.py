"""A model as it runs in PyTorch: transformer, tokenizer and sampler together; it can draw and score pictures.

Letters: N pictures, B batch, R rows (2B under guidance), T tokens of a picture, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from compress.models.tokenizer import PixelTokenizer
from compress.models.transformer import TokenTransformer
from export.sampling import Sampler, draw


@dataclass(frozen=True)
class ImageModel:
    """A trained image-token transformer with what it needs to make pictures."""

    name: str
    family: str
    transformer: TokenTransformer
    tokenizer: PixelTokenizer
    sampler: Sampler

    @property
    def vocabulary(self) -> int:
        """Image tokens."""
        return self.transformer.config.vocabulary

    @property
    def classes(self) -> int:
        """Classes, without the null class."""
        return self.transformer.config.classes

    @property
    def length(self) -> int:
        """Tokens of a picture."""
        return self.transformer.config.length

    def with_transformer(self, transformer: TokenTransformer) -> ImageModel:
        """The same model with another transformer."""
        return replace(self, transformer=transformer)

    def parameters(self) -> int:
        """Weights of the transformer, whatever their precision; scales do not count."""
        from compress.models.quantized import parameter_count

        return parameter_count(self.transformer)

    def score(self, inputs: NDArray[np.int64], batch: int = 128) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V) of inputs (N, T), in one pass without a cache."""
        with torch.no_grad():
            chunks = [self.transformer(torch.from_numpy(chunk)) for chunk in batches(inputs, batch)]
        return torch.cat(chunks).numpy()

    def score_stepwise(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """The same logits (N, T, V) through the KV cache, token by token."""
        past, logits = self.transformer.empty_cache(len(inputs)), []
        with torch.no_grad():
            for position in range(inputs.shape[1]):
                step, past = self.transformer.step(torch.from_numpy(inputs[:, position : position + 1]), past)
                logits.append(step)
        return torch.cat(logits, dim=1).numpy()

    def draw_tokens(
        self, labels: NDArray[np.int64], seed: int = 0, sampler: Sampler | None = None
    ) -> NDArray[np.int64]:
        """Tokens (B, T) of new pictures of these classes (B,)."""
        config = self.transformer.config
        past: list[list] = []

        def step(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
            if not past:
                past.append(self.transformer.empty_cache(len(tokens)))
            logits, past[0] = self.transformer.step(torch.from_numpy(tokens), past[0])
            return logits[:, -1].numpy()

        with torch.no_grad():
            return draw(
                step,
                labels,
                vocabulary=config.vocabulary,
                classes=config.classes,
                length=config.length,
                sampler=sampler or self.sampler,
                seed=seed,
            )

    def generate(self, labels: NDArray[np.int64], seed: int = 0, sampler: Sampler | None = None) -> NDArray[np.uint8]:
        """New pictures (B, h, w, C) of these classes (B,)."""
        return self.decode_images(self.draw_tokens(labels, seed, sampler))

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (B, h, w, C) of tokens (B, T)."""
        return self.tokenizer.decode(tokens)


def batches(array: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """The rows in runs of at most `size`."""
    return [array[start : start + size] for start in range(0, len(array), size)]
