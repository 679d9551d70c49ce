"""How far a candidate's predictions are from the reference's, as a function of two arrays of logits.

Letters: N pictures, T tokens of a picture, V vocabulary, R bootstrap resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.curve import Curve, curve
from compress.measure.measure import Measure
from compress.measure.quantity import Finding, Limit, quantity
from compress.measure.statistics import Estimate, percentile_interval, resampled_means
from export.runtime.shape import Shape

if TYPE_CHECKING:
    from compress.measure.measurement import Measurement
    from compress.measure.subject import Subject

CHUNK_LOGITS = 4_000_000  # logits in double precision alive at once, about seven arrays of 32 MB
RARE_SHARE = 0.99
FEW = 5  # of top-5 agreement
COLUMNS = ("nll", "reference_nll", "kl", "kl_reverse", "total_variation", "agreement", "agreement_top5")


@dataclass(frozen=True)
class Fidelity(Measure):
    """Teacher-forced drift on held-out pictures; every interval is a 95 % bootstrap over pictures, paired."""

    name = "fidelity"
    version = 6
    label: ClassVar[str | None] = ""

    pictures: int = setting(doc="pictures that were scored", low=2)
    tokens: int = setting(doc="tokens that were scored", low=2)
    nll: float = quantity(doc="negative log-likelihood of the true tokens, nats per token", unit="nats")
    nll_ci95: tuple[float, float] = setting(doc="its interval")
    reference_nll: float = setting(doc="the same of what it is compared with, nats per token")
    reference_nll_ci95: tuple[float, float] = setting(doc="its interval")
    nll_drift: float = quantity(
        doc="(nll - reference_nll) / reference_nll; 0.02 is 2 %, negative is better",
        unit="percent",
        gate=Limit("nll_drift", "most NLL drift, as a share of the reference's NLL", high=1, evidence=True),
    )
    nll_drift_ci95: tuple[float, float] = setting(doc="its interval")
    nll_drift_nats: float = quantity(doc="nll - reference_nll, nats per token", unit="nats")
    nll_drift_nats_ci95: tuple[float, float] = setting(doc="its interval")
    nll_drift_bits: float | None = quantity(
        doc="nll_drift_nats in bits for each colour value of a picture (bits/dim); null of masked models", unit="bits"
    )
    nll_drift_bits_ci95: tuple[float, float] | None = setting(doc="its interval")
    kl: float = quantity(
        doc="mean KL(reference || candidate) of the next-token distributions, nats per token",
        unit="nats",
        gate=Limit("kl", "most mean KL(reference || candidate), nats per token", evidence=True),
    )
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    kl_p99: float = quantity(doc="99th percentile of the token KL, nats: what the mean hides", unit="nats")
    kl_reverse: float = quantity(doc="mean KL(candidate || reference), nats per token", unit="nats")
    kl_reverse_ci95: tuple[float, float] = setting(doc="its interval")
    total_variation: float = quantity(doc="mean total variation of the two next-token distributions, 0 to 1")
    total_variation_ci95: tuple[float, float] = setting(doc="its interval")
    agreement: float = quantity(
        doc="share of tokens whose most likely token is the reference's (top-1)",
        unit="percent",
        better="higher",
        gate=Limit("agreement", "least top-1 agreement with the reference, a share", high=1, evidence=True),
    )
    agreement_ci95: tuple[float, float] = setting(doc="its interval")
    agreement_top5: float = quantity(
        doc="share of tokens whose reference's likeliest is among the candidate's five", unit="percent", better="higher"
    )
    agreement_top5_ci95: tuple[float, float] = setting(doc="its interval")
    agreement_weighted: float = quantity(
        doc="top-1 agreement weighted by the reference's margin, its likeliest token's probability less the second's",
        unit="percent",
        better="higher",
    )
    agreement_weighted_ci95: tuple[float, float] = setting(doc="its interval")
    curve: Curve = setting(doc="KL along the positions, the scales or the shares of masked positions")
    max_abs_difference: float = quantity(
        doc="largest absolute difference of a logit; for exact passes",
        gate=Limit(
            "max_abs_difference", "most absolute difference of a logit from the previous step's; for exact passes"
        ),
        low=0,
    )

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Fidelity:
        """Compare the scores of the two."""
        given = subject.given
        return fidelity_of(compared_scores(subject), given.seed, given.shape, math.prod(given.picture))

    @classmethod
    def findings(cls, row: Measurement, field: str) -> Iterator[Finding]:
        """As of every measure, but the largest difference of a logit is from the step before, where there is one."""
        if field == "max_abs_difference" and row.fidelity_vs_previous is not None:
            yield Finding(row.fidelity_vs_previous.max_abs_difference)
        else:
            yield from super().findings(row, field)


def fidelity(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    seed: int = 0,
    scored: NDArray[np.bool_] | None = None,
    shape: Shape | None = None,
    colour_values: int = 0,
) -> Fidelity:
    """Compare two sets of teacher-forced logits (N, T, V) of the same pictures, whose true tokens are `targets` (N, T).

    Only tokens that are `scored` (N, T) count, all if it is not given; each picture counts the same. The `shape` says
    along what the curve goes; `colour_values`, height x width x channels of a picture, are what bits/dim divide by. All
    arithmetic is in double precision. Ties of the most likely token go to the lowest, as in `numpy.argmax`.

    Raises:
        ValueError: shapes that do not belong together, fewer than 2 pictures, or logits that are not finite.
    """
    return fidelity_of(columns_of(reference_logits, candidate_logits, targets, scored), seed, shape, colour_values)


def fidelity_of(compared: Compared, seed: int = 0, shape: Shape | None = None, colour_values: int = 0) -> Fidelity:
    """The drift that a comparison of logits shows; arguments as of `fidelity`."""
    per_picture, kl, mask = compared.per_picture, compared.kl, compared.scored
    count, length = kl.shape
    means, draws = per_picture.mean(axis=0), resampled_means(per_picture, seed)  # (C,), (R, C)
    found = {name: percentile_interval(means[i], draws[:, i], count) for i, name in enumerate(COLUMNS)}
    own, theirs = COLUMNS.index("nll"), COLUMNS.index("reference_nll")
    drift, drift_draws = means[own] - means[theirs], draws[:, own] - draws[:, theirs]
    found["nll_drift"] = percentile_interval(drift / means[theirs], drift_draws / draws[:, theirs], count)
    found["nll_drift_nats"] = percentile_interval(drift, drift_draws, count)
    found["agreement_weighted"] = weighted(means, draws, count)
    bits = None
    if colour_values and (shape is None or not shape.drawing.masks):
        bits = found["nll_drift_nats"].times(length / (colour_values * math.log(2)))
    return Fidelity(
        nll_drift_bits=bits.value if bits else None,
        nll_drift_bits_ci95=bits.ci95 if bits else None,
        pictures=count,
        tokens=int(mask.sum()),
        kl_p99=float(np.quantile(kl[mask], RARE_SHARE)),
        max_abs_difference=compared.largest,
        curve=curve(kl, mask, shape, seed),
        **{name: each.value for name, each in found.items()},  # type: ignore[arg-type]
        **{f"{name}_ci95": each.ci95 for name, each in found.items()},  # type: ignore[arg-type]
    )


def weighted(means: NDArray[np.float64], draws: NDArray[np.float64], count: int) -> Estimate:
    """Agreement weighted by margins: its sum over that of the margins; 1 where there is no margin at all."""
    agreeing, margin = len(COLUMNS), len(COLUMNS) + 1
    both = np.vstack([means, draws])
    found = np.divide(both[:, agreeing], both[:, margin], out=np.ones(len(both)), where=both[:, margin] > 0)
    return percentile_interval(found[0], found[1:], count)


def difference(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    other_logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    seed: int = 0,
    scored: NDArray[np.bool_] | None = None,
) -> dict[str, Estimate]:
    """By how much a candidate's `kl` and `nll` are above those of another one, with the interval of paired pictures."""
    own, theirs = (
        columns_of(reference_logits, logits, targets, scored).per_picture for logits in (candidate_logits, other_logits)
    )
    apart = own - theirs
    means, draws = apart.mean(axis=0), resampled_means(apart, seed)
    places = {name: COLUMNS.index(name) for name in ("kl", "nll")}
    return {name: percentile_interval(means[place], draws[:, place], len(apart)) for name, place in places.items()}


@dataclass(frozen=True, eq=False)
class Compared:
    """What one pass over two sets of logits leaves, for every measure that looks at them.

    Columns C are COLUMNS, then agreement times the reference's margin, and that margin. `expected` sums the reference's
    probability of each token over the places of a picture that count, `moved` by how much the candidate's differs.
    """

    per_picture: NDArray[np.float64]  # (N, C), means
    kl: NDArray[np.float64]  # (N, T), of each token
    scored: NDArray[np.bool_]  # (N, T), which tokens count
    largest: float  # absolute difference of a logit
    expected: NDArray[np.float64]  # (N, V)
    moved: NDArray[np.float64]  # (N, V)


def compared_scores(subject: Subject) -> Compared:
    """The scores of the two beside each other, compared once for all measures of the subject."""
    examples = subject.given.examples
    return subject.once(
        "compared scores",
        lambda: columns_of(subject.reference.scores, subject.candidate.scores, examples.targets, examples.scored),
    )


def columns_of(
    reference_logits: NDArray[np.floating],
    candidate_logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    scored: NDArray[np.bool_] | None,
) -> Compared:
    """Compare logits (N, T, V) of the same pictures, a few pictures at a time; arguments as of `fidelity`.

    Raises:
        ValueError: shapes that do not belong together, a picture of which nothing is scored, or logits not finite.
    """
    if reference_logits.shape != candidate_logits.shape or reference_logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"reference logits {reference_logits.shape}, candidate logits {candidate_logits.shape}, "
            f"targets {targets.shape}: need (N, T, V), (N, T, V) and (N, T)"
        )
    count, length, vocabulary = reference_logits.shape
    mask = np.ones(targets.shape, dtype=bool) if scored is None else scored
    if not mask.any(axis=1).all():
        raise ValueError("a picture has no token that is scored")
    values = np.empty((count, length, len(COLUMNS) + 2))  # (N, T, C)
    expected, moved = np.empty((count, vocabulary)), np.empty((count, vocabulary))
    largest = 0.0
    chunk = max(1, CHUNK_LOGITS // (length * vocabulary))
    for start in range(0, count, chunk):
        rows = slice(start, start + chunk)
        reference, candidate = (
            finite(logits[rows].astype(np.float64), name, start)
            for name, logits in (("reference", reference_logits), ("candidate", candidate_logits))
        )
        largest = max(largest, float(np.abs(reference - candidate).max()))
        values[rows], expected[rows], moved[rows] = tokenwise(reference, candidate, targets[rows], mask[rows])
    per_picture = (values * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return Compared(per_picture, values[..., COLUMNS.index("kl")], mask, largest, expected, moved)


def tokenwise(
    reference: NDArray[np.float64],
    candidate: NDArray[np.float64],
    targets: NDArray[np.integer],
    scored: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What is measured of every token (n, T, C), from logits (n, T, V) of a few pictures, and two sums over T (n, V).

    The sums, over tokens that are scored (n, T), are of the reference's probabilities and of their absolute changes.
    """
    likeliest = reference.argmax(axis=-1)[..., None]
    agreeing = likeliest[..., 0] == candidate.argmax(axis=-1)
    above = (candidate > np.take_along_axis(candidate, likeliest, axis=-1)).sum(axis=-1)
    reference, candidate = log_softmax(reference), log_softmax(candidate)
    theirs, own, apart = np.exp(reference), np.exp(candidate), reference - candidate
    moved = np.abs(theirs - own)
    first_two = np.partition(theirs, -2, axis=-1)[..., -2:]
    margin = first_two[..., 1] - first_two[..., 0]
    true = targets[..., None]
    columns = (
        -np.take_along_axis(candidate, true, axis=-1)[..., 0],
        -np.take_along_axis(reference, true, axis=-1)[..., 0],
        np.maximum((theirs * apart).sum(axis=-1), 0.0),  # rounding may leave -1e-17 where the two are equal
        np.maximum(-(own * apart).sum(axis=-1), 0.0),
        moved.sum(axis=-1) / 2,
        agreeing,
        above < FEW,
        agreeing * margin,
        margin,
    )
    weights = scored[:, None, :].astype(np.float64)  # a product of matrices sums without a copy
    return np.stack(columns, axis=-1), (weights @ theirs)[:, 0], (weights @ moved)[:, 0]


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probabilities along the last axis."""
    shifted: NDArray[np.float64] = logits - logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted - total


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
