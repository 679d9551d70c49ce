"""What one change of a model adds to the KL from what it predicted before, without computing the prefix again.

Pictures are teacher-forced. The streams of the untouched model stand in front of the block that is changed, and go on
from there alone.

Letters: B pictures of a batch, T tokens of a picture, O outputs of the head, N pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.tokens import TokenSet
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.blockwise import TOGETHER, Streams

CHUNK_LOGITS = 2_000_000  # in double precision alive at once, of each of four arrays: 16 MB
FEWEST = 2  # pictures that an interval needs


class Predictions:
    """What a model predicts of pictures, kept as its last residual streams; logits are made as they are used."""

    def __init__(self, transformer: TokenTransformer, tokens: TokenSet) -> None:
        self.transformer, self.tokens = transformer, tokens
        self.last = behind(transformer, tokens)
        asked = examples(transformer.config.shape, tokens).chunks(TOGETHER)
        self.scored = [torch.from_numpy(batch.scored) for batch in asked]

    def kl_to(self, logits: Iterable[Tensor]) -> NDArray[np.float64]:
        """KL(these || those of other logits (B, T, O)), nats, mean over the scored tokens of each picture (N,)."""
        found: list[float] = []
        for exact, changed, scored in zip(self.last.logits(), logits, self.scored, strict=True):
            for own, other, asked in zip(exact, changed, scored, strict=True):
                found.append(mean_kl(own[asked], other[asked]))
        return np.array(found)

    def kl_of(self, transformer: TokenTransformer) -> NDArray[np.float64]:
        """The same of another model of the same pictures."""
        return self.kl_to(behind(transformer, self.tokens).logits())


def behind(transformer: TokenTransformer, tokens: TokenSet) -> Streams:
    """The streams behind a model's last block."""
    streams = Streams(transformer, tokens)
    for block in transformer.blocks:
        streams.advance(block)
    return streams


def mean_kl(own: Tensor, other: Tensor) -> float:
    """Mean KL(own || other) of logits (tokens, O), nats, in double precision."""
    total = 0.0
    for exact, changed in zip(own.split(rows := max(1, CHUNK_LOGITS // own.shape[1])), other.split(rows), strict=True):
        wanted, given = exact.double().log_softmax(-1), changed.double().log_softmax(-1)
        total += float((wanted.exp() * (wanted - given)).sum())
    return total / len(own)


class Changes:
    """A model that is changed at one place after the other, and what it predicts then.

    Blocks are visited in order. Whoever changes one puts it back before going on.
    """

    def __init__(self, changed: TokenTransformer, before: Predictions) -> None:
        """`changed` has modules of its own around the tensors of what `before` was predicted by."""
        self.transformer, self.before = changed, before
        self.streams = Streams(changed, before.tokens)
        self.index = 0

    def go_to(self, index: int) -> None:
        """Stand in front of a block; behind the last block changes of the head are measured."""
        while self.index < index:
            self.streams.advance(self.transformer.blocks[self.index])
            self.index += 1

    def kl(self) -> NDArray[np.float64]:
        """KL from what was predicted before to what is predicted now, nats, of each picture (N,)."""
        return self.before.kl_to(self.logits())

    def logits(self) -> Iterator[Tensor]:
        """What the model predicts now (B, T, O), from the streams on."""
        transformer = self.transformer
        with torch.no_grad():
            for x, around in self.streams.parts:
                inside = transformer.inside(around)
                for block in transformer.blocks[self.index :]:
                    x, _ = block(x, inside, None)
                yield transformer.predictions(x, around)


def scored_pictures(tokens: TokenSet, most: int) -> TokenSet:
    """Pictures that choices may be made from: of the validation part, else of the training part, never held-out ones.

    As many as have `most` tokens together, but at least `FEWEST` and all where there are fewer.

    Raises:
        ValueError: neither has two.
    """
    for part in (tokens.part("validation"), tokens.part("train")):
        if len(part) >= FEWEST:
            return spread(part, max(FEWEST, most // part.tokens.shape[1]))
    raise ValueError(f"layers are judged by at least {FEWEST} validation or training pictures; there are fewer")


def spread(tokens: TokenSet, most: int) -> TokenSet:
    """At most so many pictures, evenly over the set, which may be sorted by class."""
    count = min(most, len(tokens))
    return tokens.take((np.arange(count) * len(tokens)) // count)
