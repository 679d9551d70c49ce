"""A model's cached loop against its own call for all tokens at once: faults of the KV cache show only there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.drift.fidelity import fidelity
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity

if TYPE_CHECKING:
    from compress.measure.subject import Subject

PICTURES = 8
# Both have to be passed: rounding moves a logit, and a quantized cache the whole distribution a little.
MOST_APART = 1e-3
MOST_KL = 1e-4


@dataclass(frozen=True)
class CachedLoop(Measure):
    """A model's logits token by token through its cache against those of one call, of a few pictures."""

    name = "cached_loop"
    version = 7
    stage = "graphs"
    promises = ("cached_loop",)
    title = "Cached loop"
    caption = "Logits token by token through the cache, against those of one call"

    pictures: int = setting(doc="pictures that were scored", low=2)
    kl: float = quantity(
        doc="mean KL(one call || cached loop), nats per token",
        unit="nats",
        column="KL, nats",
        gate=Limit("loop_kl", "most mean KL(one call || cached loop), nats per token"),
    )
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    max_abs_difference: float = quantity(doc="largest absolute difference of a logit", column="logits apart", low=0)

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

    def broken(self) -> Iterator[Broken]:
        """Both compute the same."""
        if self.max_abs_difference > MOST_APART and self.kl > MOST_KL:
            text = (
                f"logits of the cached loop differ from those of one call by up to {self.max_abs_difference:.3g} "
                f"(KL {self.kl:.2g} nats), but must be equal up to rounding; `compress bisect` names the layer and the "
                f"operator where they part"
            )
            yield Broken(self.name, self.max_abs_difference, MOST_APART, text)
