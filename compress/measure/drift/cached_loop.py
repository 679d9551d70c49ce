"""A model's cached loop against its own call for all tokens at once: faults of the KV cache show only there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.drift.fidelity import fidelity
from compress.measure.measure import Measure
from compress.measure.quantity import quantity

if TYPE_CHECKING:
    from compress.measure.subject import Subject

PICTURES = 8


@dataclass(frozen=True)
class CachedLoop(Measure):
    """A model's logits token by token through its cache against those of one call, of a few pictures."""

    name = "cached_loop"
    version = 6
    stage = "graphs"

    pictures: int = setting(doc="pictures that were scored", low=2)
    kl: float = quantity(doc="mean KL(one call || cached loop), nats per token", unit="nats")
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    max_abs_difference: float = quantity(doc="largest absolute difference of a logit", low=0)

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The candidate alone."""
        return subject.candidate.key, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> CachedLoop:
        """Score a few of the pictures step by step."""
        given, candidate = subject.given, subject.candidate
        few = given.examples.take(slice(PICTURES))
        stepwise = candidate.model.score_stepwise(few.inputs, few.features)
        found = fidelity(candidate.scores[: len(few)], stepwise, few.targets, given.seed, few.scored, given.shape)
        return cls(found.pictures, found.kl, found.kl_ci95, found.max_abs_difference)
