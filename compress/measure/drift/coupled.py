"""Two models that draw with common random numbers: where their pictures part, and how much of them differs then.

Letters: N pictures, T tokens of a picture.

The noise of a seed is a hash of picture, step and place (`export.runtime.noise`), so equal seeds are common random
numbers for whatever draws: with Gumbel noise two equal models draw the same tokens, and two close ones mostly do.
After the first token that falls differently the two go on from different pasts, by design.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity
from compress.measure.statistics import bootstrap_mean, share

if TYPE_CHECKING:
    from compress.measure.subject import Subject

# Logits so near turn a token in some 30,000, but that one changes all behind it in its picture.
SAME_LOGITS = 1e-4
MOST_APART = 0.05


@dataclass(frozen=True)
class Coupled(Measure):
    """Pictures of the candidate and of the reference, drawn with the same classes and noise."""

    name = "coupled"
    version = 8
    stage = "engines"
    promises = ("coupled_tokens",)

    pictures: int = setting(doc="pictures drawn by each", low=1)
    tokens: int = setting(doc="tokens of a picture", low=1)
    identical: float = quantity(
        doc="share of pictures with every token the same",
        unit="percent",
        better="higher",
        gate=Limit("coupled_pictures", "least share of pictures drawn with every token the same", high=1),
    )
    identical_ci95: tuple[float, float] = setting(doc="its Wilson interval")
    first_divergence: tuple[int, int, int] = setting(
        doc="quartiles of the place of a picture's first differing token, from 0; `tokens` where none differs"
    )
    edit_rate: float = quantity(
        doc="share of tokens that differ",
        unit="percent",
        gate=Limit("coupled_tokens", "most tokens that differ in pictures drawn with the same noise, a share", high=1),
    )
    edit_rate_ci95: tuple[float, float] = setting(doc="its interval over pictures")
    logits_apart: float | None = setting(
        None, doc="largest absolute difference of their logits on the pictures that are scored", low=0
    )
    diverges_at: float | None = quantity(
        None,
        doc="median place of a picture's first differing token, as a share of its tokens; 1 where none differs",
        unit="percent",
        better="higher",
        gate=Limit("first_divergence", "least median place of a picture's first differing token, a share", high=1),
    )

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """What both draw."""
        return *subject.keys, *subject.given.drawn, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Coupled:
        """Draw with both."""
        reference, candidate = subject.reference, subject.candidate
        # Row by row: scores may take half the memory.
        pairs = zip(reference.scores, candidate.scores, strict=True)
        apart = max(float(np.abs(theirs - own).max()) for theirs, own in pairs)
        return replace(coupled(reference.drawn(), candidate.drawn(), subject.given.seed), logits_apart=apart)

    def broken(self) -> Iterator[Broken]:
        """Models of the same logits draw the same."""
        if self.logits_apart is not None and self.logits_apart <= SAME_LOGITS and self.edit_rate > MOST_APART:
            text = (
                f"draws {100 * self.edit_rate:.3g} % other tokens than the reference with the same noise, though their "
                f"logits are equal up to rounding; its sampler, its cache or its settings are not the reference's"
            )
            yield Broken("coupled_tokens", self.edit_rate, MOST_APART, text)


def coupled(reference: NDArray[np.int64], candidate: NDArray[np.int64], seed: int = 0) -> Coupled:
    """Compare tokens (N, T) drawn with the same noise.

    Places are in the order of the tokens: that of drawing, but for masked models.

    Raises:
        ValueError: they are not equally many pictures of the same length, or fewer than 2.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"tokens {reference.shape} and {candidate.shape} are not of the same pictures")
    differs = reference != candidate
    count, length = differs.shape
    first = np.where(differs.any(axis=1), differs.argmax(axis=1), length)
    same, edits = share(int((first == length).sum()), count), bootstrap_mean(differs.mean(axis=1), seed)
    quartiles = np.quantile(first, [0.25, 0.5, 0.75], method="inverted_cdf").astype(int).tolist()
    return Coupled(
        count,
        length,
        same.value,
        same.ci95,
        tuple(quartiles),
        edits.value,
        edits.ci95,
        diverges_at=quartiles[1] / length,
    )
