"""How far a candidate's predictions are from the reference's, as a function of two arrays of logits.

Letters: N pictures, T tokens of a picture, V vocabulary, R bootstrap resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.measure.statistics import percentile_interval, resampled_means
from compress.settings import setting

CHUNK_LOGITS = 4_000_000  # logits in double precision alive at once, about five arrays of 32 MB
RARE_SHARE = 0.99


@dataclass(frozen=True)
class Fidelity:
    """Teacher-forced drift on held-out pictures; every interval is a 95 % bootstrap over pictures, paired."""

    pictures: int = setting(doc="pictures that were scored", low=2)
    tokens: int = setting(doc="tokens that were scored", low=2)
    nll: float = setting(doc="negative log-likelihood of the true tokens, nats per token")
    nll_ci95: tuple[float, float] = setting(doc="its interval")
    reference_nll: float = setting(doc="the same of what it is compared with, nats per token")
    reference_nll_ci95: tuple[float, float] = setting(doc="its interval")
    nll_drift: float = setting(doc="(nll - reference_nll) / reference_nll; 0.02 is 2 %, negative is better")
    nll_drift_ci95: tuple[float, float] = setting(doc="its interval")
    nll_drift_nats: float = setting(doc="nll - reference_nll, nats per token")
    nll_drift_nats_ci95: tuple[float, float] = setting(doc="its interval")
    kl: float = setting(doc="mean KL(reference || candidate) of the next-token distributions, nats per token")
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    kl_p99: float = setting(doc="99th percentile of the token KL, nats: what the mean hides")
    agreement: float = setting(doc="share of tokens whose most likely token is the reference's (top-1)")
    agreement_ci95: tuple[float, float] = setting(doc="its interval")
    max_abs_difference: float = setting(doc="largest absolute difference of a logit; for exact passes", low=0)


def fidelity(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    seed: int = 0,
    scored: NDArray[np.bool_] | None = None,
) -> Fidelity:
    """Compare two sets of teacher-forced logits (N, T, V) of the same pictures, whose true tokens are `targets` (N, T).

    Only tokens that are `scored` (N, T) count, all if it is not given; each picture counts the same. All arithmetic is
    in double precision. Ties of the most likely token go to the lowest, as in `numpy.argmax`.

    Raises:
        ValueError: shapes that do not belong together, fewer than 2 pictures, or logits that are not finite.
    """
    if reference_logits.shape != candidate_logits.shape or reference_logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"reference logits {reference_logits.shape}, candidate logits {candidate_logits.shape}, "
            f"targets {targets.shape}: need (N, T, V), (N, T, V) and (N, T)"
        )
    count, length, vocabulary = reference_logits.shape
    weights = np.ones(targets.shape) if scored is None else scored.astype(np.float64)
    if not weights.any(axis=1).all():
        raise ValueError("a picture has no token that is scored")
    weights /= weights.sum(axis=1, keepdims=True)
    reference_nll, nll, kl = (np.empty((count, length)) for _ in range(3))  # (N, T)
    agreement = np.empty((count, length))
    largest = 0.0
    chunk = max(1, CHUNK_LOGITS // (length * vocabulary))
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        reference, candidate = (
            finite(logits[rows].astype(np.float64), name, start)
            for name, logits in (("reference", reference_logits), ("candidate", candidate_logits))
        )
        largest = max(largest, float(np.abs(reference - candidate).max()))
        agreement[rows] = reference.argmax(axis=-1) == candidate.argmax(axis=-1)
        reference, candidate = log_softmax(reference), log_softmax(candidate)
        true = targets[rows, :, None]
        reference_nll[rows] = -np.take_along_axis(reference, true, axis=-1)[..., 0]
        nll[rows] = -np.take_along_axis(candidate, true, axis=-1)[..., 0]
        kl[rows] = (np.exp(reference) * (reference - candidate)).sum(axis=-1)
    kl = np.maximum(kl, 0.0)  # rounding may leave -1e-17 where the distributions are equal

    columns = np.stack(
        [(column * weights).sum(axis=1) for column in (nll, reference_nll, kl, agreement)], axis=1
    )  # (N, 4)
    means = columns.mean(axis=0)
    draws = resampled_means(columns, seed)  # (R, 4)
    drift, drift_draws = means[0] - means[1], draws[:, 0] - draws[:, 1]
    own, theirs, divergence, agreeing = (percentile_interval(means[i], draws[:, i]) for i in range(4))
    drift_nats = percentile_interval(drift, drift_draws)
    drift_share = percentile_interval(drift / means[1], drift_draws / draws[:, 1])
    return Fidelity(
        pictures=count,
        tokens=int((weights > 0).sum()),
        nll=own.value,
        nll_ci95=own.ci95,
        reference_nll=theirs.value,
        reference_nll_ci95=theirs.ci95,
        nll_drift=drift_share.value,
        nll_drift_ci95=drift_share.ci95,
        nll_drift_nats=drift_nats.value,
        nll_drift_nats_ci95=drift_nats.ci95,
        kl=divergence.value,
        kl_ci95=divergence.ci95,
        kl_p99=float(np.quantile(kl[weights > 0], RARE_SHARE)),
        agreement=agreeing.value,
        agreement_ci95=agreeing.ci95,
        max_abs_difference=largest,
    )


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities along the last axis."""
    shifted: NDArray[np.float64] = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def finite(logits: NDArray[np.float64], name: str, start: int) -> NDArray[np.float64]:
    """The logits, if every one is a number; `start` is the index of their first picture."""
    wrong = np.argwhere(~np.isfinite(logits))
    if len(wrong):
        picture, token, entry = wrong[0]
        raise ValueError(
            f"{name} logits: {logits[picture, token, entry]} at picture {start + picture}, token {token}, "
            f"entry {entry}; every logit must be finite"
        )
    return logits
