"""Sampling: guidance, temperature, top-k, top-p and the noise of a seed; shared by PyTorch and every engine.

Letters: B pictures, R rows of a step (B, or 2B under guidance), T tokens of a picture, V vocabulary.

Tokens are drawn with the Gumbel-max trick from one counter-based generator (Philox; Salmon et al., SC 2011): the noise
of a picture depends on the seed, its index in the call and the position alone, so equal logits give equal tokens
whatever runs the model and however many pictures are drawn at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Step = Callable[[NDArray[np.int64]], NDArray[np.float32]]

TINIEST = np.finfo(np.float64).tiny  # a uniform draw of exactly 0 has no logarithm


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn from logits.

    `cfg_scale` 1 is no guidance; `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 keep all tokens.
    """

    cfg_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.cfg_scale < 0 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"cfg_scale {self.cfg_scale}, temperature {self.temperature}, top_k {self.top_k}, top_p {self.top_p}: "
                "need numbers of at least 0, and top_p above 0 and at most 1"
            )

    def changed(
        self,
        *,
        cfg_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Sampler:
        """The same sampler with what is given.

        Raises:
            ValueError: a setting is out of range.
        """
        return Sampler(
            self.cfg_scale if cfg_scale is None else cfg_scale,
            self.temperature if temperature is None else temperature,
            self.top_k if top_k is None else top_k,
            self.top_p if top_p is None else top_p,
        )

    @property
    def guided(self) -> bool:
        """Whether each picture needs a second row for the null class."""
        return self.cfg_scale != 1.0


def draw(
    step: Step, labels: NDArray[np.int64], *, vocabulary: int, classes: int, length: int, sampler: Sampler, seed: int
) -> NDArray[np.int64]:
    """Tokens (B, T) of new pictures of these classes (B,), by `length` calls of `step`.

    `step` takes the tokens (R, 1) of one position, the class tokens first, and returns logits (R, V). Under guidance
    rows B to 2B are the null class.

    Raises:
        ValueError: a label that is no class (the null class is allowed), or labels that are not (B,) with B > 0.
    """
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels of shape {labels.shape}: need one class for each picture, at least one")
    if labels.min() < 0 or labels.max() > classes:
        wrong = labels[(labels < 0) | (labels > classes)][0]
        raise ValueError(f"label {wrong} is not a class; the model draws 0 to {classes - 1} ({classes} is no class)")
    count = len(labels)
    streams = [np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index])) for index in range(count)]
    tokens = np.empty((count, length), dtype=np.int64)
    latest = labels.astype(np.int64)[:, None] + vocabulary
    if sampler.guided:
        latest = np.concatenate([latest, np.full_like(latest, vocabulary + classes)])
    for position in range(length):
        logits = step(latest)
        if sampler.guided:
            guided, null = logits[:count], logits[count:]
            logits = null + np.float32(sampler.cfg_scale) * (guided - null)
        tokens[:, position] = choose(logits, sampler, streams)
        latest = tokens[:, position : position + 1]
        if sampler.guided:
            latest = np.concatenate([latest, latest])
    return tokens


def choose(logits: NDArray[np.float32], sampler: Sampler, streams: list[np.random.Generator]) -> NDArray[np.int64]:
    """One token for each row (B,) of logits (B, V); each row's noise comes from its own stream."""
    if sampler.temperature == 0:
        return logits.argmax(axis=1)
    scaled = logits.astype(np.float64) / sampler.temperature
    if sampler.top_k and sampler.top_k < scaled.shape[1]:
        scaled = keep_likeliest(scaled, sampler.top_k)
    if sampler.top_p < 1:
        scaled = keep_nucleus(scaled, sampler.top_p)
    uniform = np.stack([stream.random(scaled.shape[1]) for stream in streams])
    return (scaled - np.log(-np.log(np.maximum(uniform, TINIEST)))).argmax(axis=1)


def keep_likeliest(logits: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Logits (B, V) with all below the `count`-th largest of the row at minus infinity (ties with it stay)."""
    floor = np.partition(logits, -count, axis=1)[:, -count, None]
    return np.where(logits < floor, -np.inf, logits)


def keep_nucleus(logits: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Logits (B, V) with all outside the smallest set of likeliest tokens that holds `share` at minus infinity.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751); the likeliest token always stays.
    """
    order = np.argsort(-logits, axis=1, kind="stable")
    ranked = np.take_along_axis(logits, order, axis=1)
    probability = np.exp(ranked - ranked[:, :1])
    probability /= probability.sum(axis=1, keepdims=True)
    before = np.cumsum(probability, axis=1) - probability  # what likelier tokens hold
    kept = np.where(before < share, ranked, -np.inf)
    result = np.empty_like(logits)
    np.put_along_axis(result, order, kept, axis=1)
    return result
