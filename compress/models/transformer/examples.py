"""What a transformer reads of pictures, and what it is asked: inputs, true tokens, and which of them count.

Letters: N pictures, T tokens of a picture, S length of the inputs, P x C features of a text.

A masked model is asked for masked positions only. The share that is masked goes evenly over the cosine schedule's
(arXiv 2202.04200) from one picture to the next, and positions are drawn from the seed and the picture's number, so that
equal calls ask equal questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from calibration.tokens import TokenSet
from export.runtime.shape import Shape


@dataclass(frozen=True)
class Examples:
    """Inputs (N, S), true tokens (N, T), whether each is asked for (N, T), and features (N, P, C) of a text if any."""

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    scored: NDArray[np.bool_]
    features: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def tensors(self, device: torch.device | None = None) -> tuple[Tensor, Tensor | None]:
        """What a transformer takes, on its device."""
        features = None if self.features is None else torch.from_numpy(self.features).to(device)
        return torch.from_numpy(self.inputs).to(device), features

    def take(self, rows: NDArray[np.int64] | slice) -> Examples:
        """The examples of these rows."""
        features = None if self.features is None else self.features[rows]
        return Examples(self.inputs[rows], self.targets[rows], self.scored[rows], features)

    def followed_by(self, other: Examples) -> Examples:
        """These examples and the others behind them."""
        pairs = zip(self.arrays(), other.arrays(), strict=True)
        return Examples(*(np.concatenate(pair) for pair in pairs))

    def arrays(self) -> list[NDArray[Any]]:
        """Inputs, true tokens, what is asked for, and features of a text if any."""
        return [self.inputs, self.targets, self.scored, *([] if self.features is None else [self.features])]

    def unconditional(self, shape: Shape) -> Examples:
        """The same pictures, unconditional: what guidance leads away from."""
        return replace(self, inputs=without_class(shape, self.inputs))

    def chunks(self, size: int) -> Iterator[Examples]:
        """The examples in runs of at most `size`."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def examples(shape: Shape, tokens: TokenSet, seed: int = 0) -> Examples:
    """Teacher-forced examples of these pictures."""
    return examples_of(shape, tokens.tokens, tokens.labels, seed, tokens.features)


def examples_of(
    shape: Shape,
    tokens: NDArray[np.int64],
    labels: NDArray[np.int64],
    seed: int,
    features: NDArray[np.float32] | None = None,
) -> Examples:
    """Teacher-forced examples of tokens (N, T) and classes (N,)."""
    classes = labels[:, None] + shape.first_class
    shown, scored = shape.drawing.shown(tokens, shape, seed)
    return Examples(np.concatenate([classes, shown], axis=1), tokens, scored, features)


def without_class(shape: Shape, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same inputs (N, S) with the null class."""
    inputs = inputs.copy()
    inputs[:, 0] = shape.first_class + shape.null_class
    return inputs


def nll(transformer: nn.Module, batch: Examples) -> Tensor:
    """Teacher-forced NLL of each picture (B,), nats per token that is scored."""
    device = next(transformer.parameters()).device
    logits, scored = transformer(*batch.tensors(device)), torch.from_numpy(batch.scored).to(device)  # (B, T, O)
    losses = functional.cross_entropy(logits.mT, torch.from_numpy(batch.targets).to(device), reduction="none")
    return (losses * scored).sum(dim=1) / scored.sum(dim=1)
