"""A model as it runs in PyTorch: transformer, tokenizer and sampler together; it can draw and score pictures.

Letters: N pictures, B batch, R rows (2B under guidance), T tokens of a picture, O logits of a position, P x C features
of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.models.tokenizer.model import Tokenizer
from compress.models.transformer.blocks import KeyValue
from compress.models.transformer.model import TokenTransformer
from export.runtime.drawing import Known, LogitsDrawer, draw, opening, score_stepwise
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, Shaped

SCORE_ROWS = 32  # rows scored at once at most
SCORE_LOGITS = 2**26  # and logits, 256 MB


@lru_cache(maxsize=64)  # it is asked for at every step, and checks a name for each of thousands of classes
def named(shape: Shape, class_names: tuple[str, ...]) -> Shape:
    """A shape whose classes are called so."""
    return replace(shape, class_names=class_names)


@dataclass(frozen=True)
class ImageModel(Shaped):
    """A trained image-token transformer with what it needs to make pictures."""

    name: str
    family: str
    transformer: TokenTransformer
    tokenizer: Tokenizer
    sampler: Sampler
    class_names: tuple[str, ...] = ()
    licence: str = ""

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""
        return named(self.transformer.config.shape, self.class_names)

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""
        return self.tokenizer.picture

    @property
    def cache_bytes(self) -> int:
        """What keys and values of one row take."""
        config = self.transformer.config
        return 8 * sum(layer.kv_heads for layer in config.layers) * config.head_width * self.shape.reach

    def with_transformer(self, transformer: TokenTransformer) -> ImageModel:
        """The same model with another transformer."""
        return replace(self, transformer=transformer)

    def parameters(self) -> int:
        """Weights of the transformer, whatever their precision; scales do not count."""
        from compress.models.transformer.quantized import parameter_count

        return parameter_count(self.transformer)

    def score(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None, batch: int = SCORE_ROWS
    ) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...), in one pass without a cache."""
        shape = self.shape
        batch = max(1, min(batch, SCORE_LOGITS // (shape.length * shape.predicted)))
        parts = []
        with torch.no_grad():
            for start in range(0, len(inputs), batch):
                rows = slice(start, start + batch)
                text = None if features is None else torch.from_numpy(features[rows])
                parts.append(self.transformer(torch.from_numpy(inputs[rows]), text))
        return torch.cat(parts).numpy()

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits (N, T, O) step by step as when drawing, through the KV cache where there is one."""
        return score_stepwise(self.runner(), inputs, self.shape, features)

    def runner(self) -> TorchRunner:
        """What runs it step by step."""
        return TorchRunner(self.transformer)

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
        first: int = 0,
        on_step: Callable[[], None] | None = None,
    ) -> NDArray[np.int64]:
        """Tokens (B, T) of new pictures of these classes (B,), or of texts with features (B, P, C).

        `first` is the number of the first picture among all of this seed. `on_step` is called after each step.
        """
        drawer = LogitsDrawer(self.runner(), self.shape)
        sampler = self.sampler.admitted(sampler)
        return draw(drawer, labels, self.shape, sampler, seed, features, known, first, on_step)

    def generate(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
    ) -> NDArray[np.uint8]:
        """New pictures (B, H, W, C) of these classes (B,), or of texts with features (B, P, C)."""
        return self.decode_images(self.draw_tokens(labels, seed, sampler, features))

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (B, H, W, C) of tokens (B, T)."""
        return self.tokenizer.decode(tokens)

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (B, T) of pictures (B, H, W, C)."""
        return self.tokenizer.encode(images)


class TorchRunner:
    """Draws with a transformer in PyTorch (`export.runtime.drawing.Runner`)."""

    def __init__(self, transformer: TokenTransformer) -> None:
        self.transformer, self.shape = transformer, transformer.config.shape
        self.past: list[KeyValue] = []
        self.labels = torch.empty(0, dtype=torch.int64)
        self.valid: Tensor | None = None
        self.features: Tensor | None = None

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token behind a prompt (R, S), unless the model is masked."""
        self.labels, rows, shape = torch.from_numpy(labels), len(labels), self.shape
        if shape.drawing.masks:
            self.features = None if features is None else torch.from_numpy(features)
            return None
        self.past = self.transformer.empty_cache(rows)
        if shape.drawing.scaled:
            return self.advance(torch.zeros(rows, 1, shape.latent_width))
        if features is not None:
            self.features = torch.from_numpy(features)
            self.valid = (self.features != 0).any(dim=-1)
            logits = self.advance(torch.zeros(rows, 0, dtype=torch.int64))[:, -1:]
            self.features = self.features[:, :0]
            return logits if prompt is None else self.advance(torch.from_numpy(prompt))[:, -1:]
        return self.advance(torch.from_numpy(opening(shape, labels, prompt)))[:, -1:]

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of what comes next."""
        given = torch.from_numpy(tokens)
        if self.shape.drawing.sequential:
            return self.advance(given)
        with torch.no_grad():
            if self.shape.drawing.masks:
                wanted = torch.arange(self.shape.length) if positions is None else torch.from_numpy(positions)
                return self.transformer.revealed(given, self.labels, wanted, self.features).numpy()
            start = self.past[0].key.shape[2]
            end = start + self.shape.side_at(start) ** 2
            latents = self.transformer.scales.features(given)[:, start - 1 : end - 1]
        return self.advance(latents)

    def advance(self, tokens: Tensor) -> NDArray[np.float32]:
        """Logits (R, S, O) behind the cache, which grows."""
        with torch.no_grad():
            logits, self.past = self.transformer.step(tokens, self.past, self.labels, self.features, self.valid)
        return logits.numpy()
