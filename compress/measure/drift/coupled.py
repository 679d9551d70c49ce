"""Two models that draw with common random numbers: where their pictures part, and how much of them differs then.

Letters: N pictures, T tokens of a picture.

The noise of a seed is a hash of picture, step and place (`export.runtime.noise`), so equal seeds are common random
numbers for whatever draws: with Gumbel noise two equal models draw the same tokens, and two close ones mostly do.
After the first token that falls differently the two go on from different pasts, by design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.statistics import bootstrap_mean, share

if TYPE_CHECKING:
    from compress.measure.subject import Subject


@dataclass(frozen=True)
class Coupled(Measure):
    """Pictures of the candidate and of the reference, drawn with the same classes and noise."""

    name = "coupled"
    version = 5
    stage = "engines"
    verified = False

    pictures: int = setting(doc="pictures drawn by each", low=1)
    tokens: int = setting(doc="tokens of a picture", low=1)
    identical: float = setting(doc="share of pictures with every token the same")
    identical_ci95: tuple[float, float] = setting(doc="its Wilson interval")
    first_divergence: tuple[int, int, int] = setting(
        doc="quartiles of the place of a picture's first differing token, from 0; `tokens` where none differs"
    )
    edit_rate: float = setting(doc="share of tokens that differ")
    edit_rate_ci95: tuple[float, float] = setting(doc="its interval over pictures")

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """What both draw."""
        return *subject.keys, *subject.given.drawn, subject.given.fingerprint

    @classmethod
    def run(cls, subject: Subject) -> Coupled:
        """Draw with both."""
        return coupled(subject.reference.drawn(), subject.candidate.drawn(), subject.given.seed)


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
    return Coupled(count, length, same.value, same.ci95, tuple(quartiles), edits.value, edits.ci95)
