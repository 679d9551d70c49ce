"""From the logits of a step to its tokens: guidance, temperature, top-k, top-p, noise. `sampling_graph` is its twin.

Letters: B pictures, n positions of a step, V logits of a position.

Tokens are drawn with the Gumbel-max trick: the likeliest after noise was added (Maddison et al., arXiv 1411.0030).
Everything is float32, so that a graph computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .cuts import Logits, keep
from .errors import UnsoundLogitsError
from .noise import NoiseSource
from .sampling import Sampler

UNSOUND = -1  # what a whole generation in one graph, which cannot raise, gives instead of tokens drawn from NaN


@dataclass(frozen=True)
class Choice:
    """How the tokens of one step are chosen.

    `temperature` 0 takes the likeliest. `noise` (B, n, V) says how many pictures, positions and logits there are; it is
    0 where the likeliest is taken. `cuts` are those that keep less than all, by their names.
    """

    noise: Logits
    guidance: float = 1.0
    temperature: float = 1.0
    cuts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def at(
        cls,
        sampler: Sampler,
        noise: NoiseSource,
        step: int,
        steps: int,
        shape: tuple[int, int],
        temperature: float | None = None,
    ) -> Choice:
        """The choice of (n, V) tokens that a sampler makes at a step of so many, or at another temperature."""
        if temperature is None:
            temperature = sampler.temperature_at(step, steps)
        if temperature == 0:  # cuts nothing: the likeliest always stays
            return cls(np.zeros((noise.count, *shape), dtype=np.float32), sampler.scale_at(step, steps), 0.0)
        made = noise.gumbel(step, shape)
        return cls(made, sampler.scale_at(step, steps), temperature, sampler.cuts)


class Chosen(NamedTuple):
    """Tokens (B, n), the guided logit of each, and its log-probability after temperature, top-k and top-p."""

    tokens: NDArray[np.int64]
    logit: Logits
    log_probability: Logits


def choose(logits: Logits, choice: Choice, *, with_sureness: bool = False) -> Chosen:
    """One token for each position of logits (R, n, V), of which the last B rows have no class under guidance.

    What is known of it besides the token is only computed if `with_sureness`.
    """
    pictures, _, outputs = choice.noise.shape
    guided = guide(logits[..., :outputs], pictures, choice.guidance)
    scores = guided / np.float32(choice.temperature) if choice.temperature else guided
    scores = keep(scores, choice.cuts)
    disturbed = scores + choice.noise if choice.temperature else scores
    tokens = disturbed.argmax(axis=-1)
    check_sound(picked(disturbed, tokens))
    if not with_sureness:
        nothing = np.empty((*tokens.shape[:1], 0), dtype=np.float32)
        return Chosen(tokens, nothing, nothing)
    return Chosen(tokens, picked(guided, tokens), log_probability(scores, tokens))


def check_sound(largest: Logits) -> None:
    """Refuse logits by the largest of each position, which is NaN where any of them is.

    Raises:
        UnsoundLogitsError: one is NaN or infinite.
    """
    if not np.isfinite(largest).all():
        raise unsound("NaN" if np.isnan(largest).any() else "infinity")


def unsound(what: str) -> UnsoundLogitsError:
    """The error of logits that hold NaN or infinity."""
    return UnsoundLogitsError(
        f"the model's logits hold {what}, so nothing can be drawn from them; its weights are damaged, or a layer "
        f"overflows"
    )


def guide(logits: Logits, pictures: int, scale: float) -> Logits:
    """Logits (B, n, V) of the pictures, from rows (2B, n, V) whose second half has no class, or as they are."""
    if len(logits) == pictures:
        return logits
    given, null = logits[:pictures], logits[-pictures:]
    led: Logits = lead(given, null, np.float32(scale))
    return led


def lead(given: Any, null: Any, scale: Any) -> Any:
    """Logits (..., V) led away from those without a class (classifier-free guidance, arXiv 2207.12598)."""
    return null + scale * (given - null)


def picked(values: Logits, tokens: NDArray[np.int64]) -> Logits:
    """The value (B, n) of each token (B, n) among values (B, n, V)."""
    return np.take_along_axis(values, tokens[..., None], axis=-1)[..., 0]


def log_probability(scores: Logits, tokens: NDArray[np.int64]) -> Logits:
    """Log-probabilities (B, n) of tokens (B, n) under scores (B, n, V)."""
    top = scores.max(axis=-1, keepdims=True)
    total: Logits = np.log(np.exp(scores - top).sum(axis=-1)) + top[..., 0]
    return picked(scores, tokens) - total
