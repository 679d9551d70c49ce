"""The class, the place and the token that drift the most: a mean over all hides a fault of one.

Letters: N pictures, T tokens of a picture, V vocabulary, K looks (classes, places or tokens).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.drift.fidelity import Compared, compared_scores
from compress.measure.measure import Measure
from compress.measure.quantity import Finding, Limit, interval_of, quantity
from compress.measure.statistics import largest

if TYPE_CHECKING:
    from compress.measure.measurement import Measurement
    from compress.measure.subject import Subject

FEWEST = 2  # pictures of a class or a place
LEAST_EXPECTED = 1.0  # times that the reference expects a token in all that is scored
WHICH = {"class_kl": "worst_class", "position_kl": "worst_position", "token_shift": "worst_token"}


@dataclass(frozen=True)
class Worst(Measure):
    """Teacher-forced drift of the worst class, place and token; 95 % intervals corrected for the number of looks."""

    name = "worst"
    title = "Worst class, place and token"
    caption = "Of all that were looked at the one that drifts the most; intervals are corrected for the number of looks"

    pictures: int = setting(doc="pictures that were scored", low=2)
    class_kl: float | None = quantity(
        doc="largest mean KL(reference || candidate) of the pictures of one class, nats per token; null where there "
        "are no classes, or none has two pictures",
        unit="nats",
        column="KL of a class, nats",
        gate=Limit(
            "worst_class_kl",
            "most mean KL(reference || candidate) of the pictures of a class, nats per token",
            evidence=True,
        ),
    )
    class_kl_ci95: tuple[float, float] | None = setting(doc="its interval")
    worst_class: int | None = setting(doc="that class", low=0)
    classes: int = setting(doc="classes that were looked at", low=0)
    classes_left_out: int = setting(doc="classes with a single picture, which were not", low=0)
    position_kl: float | None = quantity(
        doc="largest mean KL(reference || candidate) at one place, nats per token; null where none was asked for twice",
        unit="nats",
        column="KL of a place, nats",
        gate=Limit(
            "worst_position_kl", "most mean KL(reference || candidate) at one place, nats per token", evidence=True
        ),
    )
    position_kl_ci95: tuple[float, float] | None = setting(doc="its interval")
    worst_position: int | None = setting(doc="that place, in the order of tokens, from 0", low=0)
    positions: int = setting(doc="places that were looked at", low=0)
    token_shift: float | None = quantity(
        doc="largest change of a token's probability, summed over all places, as a share of how often the reference "
        "expects it; null where no token is expected in two pictures",
        unit="percent",
        column="shift of a token %",
        gate=Limit(
            "worst_token_shift",
            "most change of a token's probability, as a share of how often it is expected",
            evidence=True,
        ),
    )
    token_shift_ci95: tuple[float, float] | None = setting(doc="its interval")
    worst_token: int | None = setting(doc="that token", low=0)
    tokens: int = setting(doc="tokens that were looked at: those that the reference expects at least once", low=0)

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Worst:
        """Look at the comparison of the two scores, which `fidelity` shares."""
        shape = subject.given.shape
        has_classes = shape.classes > 0 and shape.text is None
        labels = subject.given.examples.inputs[:, 0] - shape.first_class if has_classes else None
        return worst(compared_scores(subject), labels)

    @classmethod
    def findings(cls, row: Measurement, field: str) -> Iterator[Finding]:
        """As of every measure, with the class, place or token in words."""
        found = row.result(cls.name)
        if isinstance(found, cls) and (value := getattr(found, field)) is not None:
            which = WHICH[field]
            place = f" of {which.removeprefix('worst_')} {getattr(found, which)}"
            yield Finding(value, interval_of(found, field), place)


def worst(compared: Compared, labels: NDArray[np.integer] | None = None) -> Worst:
    """The worst of a comparison of logits of N pictures, whose classes are `labels` (N,) if they have any.

    Only tokens that are scored count. Classes and places with fewer than two pictures are left out, and tokens that the
    reference expects less than once in all that is scored.
    """
    kl, scored = compared.kl, compared.scored.astype(np.float64)
    of_class, left_out = np.zeros((len(kl), 0)), 0
    names = np.zeros(0, dtype=np.int64)
    if labels is not None:
        names, counts = np.unique(labels, return_counts=True)
        left_out = int((counts < FEWEST).sum())
        names = names[counts >= FEWEST]
        of_class = (labels[:, None] == names).astype(np.float64)  # (N, K)
    means = (kl * scored).sum(axis=1) / scored.sum(axis=1)
    places = np.flatnonzero(scored.sum(axis=0) >= FEWEST)
    tokens = np.flatnonzero(compared.expected.sum(axis=0) >= LEAST_EXPECTED)
    by_class = looked(means[:, None] * of_class, of_class, names)
    by_place = looked((kl * scored)[:, places], scored[:, places], places)
    by_token = looked(compared.moved[:, tokens], compared.expected[:, tokens], tokens)
    return Worst(len(kl), *by_class, len(names), left_out, *by_place, len(places), *by_token, len(tokens))


def looked(
    parts: NDArray[np.float64], sizes: NDArray[np.float64], names: NDArray[np.integer]
) -> tuple[float | None, tuple[float, float] | None, int | None]:
    """The largest ratio of the looks (K,) with these names, its interval, and the name; Nones where nothing is seen."""
    found = largest(parts, sizes) if len(names) else None
    if found is None:
        return None, None, None
    place, estimate = found
    return estimate.value, estimate.ci95, int(names[place])
