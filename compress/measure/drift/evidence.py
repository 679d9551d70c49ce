"""Whether the reference's predictions can show drift at all: flat ones agree with everything.

Letters: N pictures, T tokens of a picture, V logits of a position.

A model that was never trained, or whose head begins at zero, predicts nearly the same everywhere; every candidate is
then close to it, and a small KL proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.fidelity import CHUNK_LOGITS, log_softmax

FLATTEST = 0.995  # of the entropy of equal odds; trained models on hand have 0.35 to 0.9
VERSION = 5  # goes up when the same scores give another result
LEAST_CONTRAST = 0.01  # nats; what a gate on KL allows is of this size


@dataclass(frozen=True)
class Evidence:
    """What the reference's own predictions say of a comparison with it."""

    sound: bool = setting(doc="whether drift would show")
    reason: str = setting(doc="why it would not; empty where it would")
    entropy: float = setting(doc="mean entropy of the predictions, as a share of that of equal odds", low=0)
    contrast: float = setting(
        doc="mean KL between predictions for a picture and those for another at the same place, nats: what a wholly "
        "wrong context would cost",
        low=0,
    )


def evidence(logits: NDArray[np.floating], scored: NDArray[np.bool_] | None = None) -> Evidence:
    """Judge the reference's teacher-forced logits (N, T, V) of held-out pictures."""
    count, length, vocabulary = logits.shape
    mask = np.ones((count, length), dtype=bool) if scored is None else scored
    other = np.roll(np.arange(count), 1)
    entropy, contrast = np.empty((count, length)), np.empty((count, length))
    chunk = max(1, CHUNK_LOGITS // (length * vocabulary))
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        own, theirs = (log_softmax(logits[index].astype(np.float64)) for index in (rows, other[rows]))
        weight = np.exp(own)
        entropy[rows] = -(weight * own).sum(axis=-1)
        contrast[rows] = (weight * (own - theirs)).sum(axis=-1)
    share = max(float(entropy[mask].mean() / np.log(vocabulary)), 0.0)
    apart = max(float(contrast[mask].mean()), 0.0)
    return Evidence(share <= FLATTEST and apart >= LEAST_CONTRAST, reason(share, apart), share, apart)


def reason(entropy: float, contrast: float) -> str:
    """Why predictions like these prove nothing; empty where they do."""
    if entropy > FLATTEST:
        return (
            f"the reference's predictions are flat ({100 * entropy:.2f} % of the entropy of equal odds), as those of "
            "an untrained head: every candidate is close to them"
        )
    if contrast < LEAST_CONTRAST:
        return (
            f"the reference predicts nearly the same for every picture ({contrast:.2g} nats between two of them): a "
            "candidate that ignores what it reads would be as close"
        )
    return ""
