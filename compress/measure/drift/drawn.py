"""Drift on pictures that the reference drew: where an engine will be at work, and no held-out data is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.measure.drift.fidelity import Fidelity, fidelity

if TYPE_CHECKING:
    from compress.measure.subject import Subject


@dataclass(frozen=True)
class FidelityDrawn(Fidelity):
    """Teacher-forced drift on pictures that the reference drew; every interval is a 95 % bootstrap over pictures."""

    name = "fidelity_drawn"
    version = 7
    verified = "never"  # `verify --tokens drawn` does it alone
    gated = False
    label = None

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The drawn pictures instead of the held-out ones."""
        return *subject.keys, *subject.given.drawn

    @classmethod
    def run(cls, subject: Subject) -> FidelityDrawn:
        """Score what the reference drew."""
        given, reference = subject.given, subject.reference
        examples = reference.examples_of_drawn
        theirs, own, values = reference.scores_of_drawn, subject.candidate.score(examples), math.prod(given.picture)
        return cls(**vars(fidelity(theirs, own, examples.targets, given.seed, examples.scored, given.shape, values)))
