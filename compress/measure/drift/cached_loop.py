"""A model's cached loop against its own call for all tokens at once: faults of the KV cache show only there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.drift.fidelity import Fidelity, fidelity
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.measure.subject import Subject

PICTURES = 8
# Both have to be passed: rounding moves a logit, and a quantized cache the whole distribution a little. Where products
# round their inputs, the last bit of a float sum decides on which side of a tie a code falls, and layer by layer more
# codes differ, until the two differ by as much as rounding costs.
MOST_APART = 1e-3
MOST_KL = 1e-4


@dataclass(frozen=True)
class CachedLoop(Measure):
    """A model's logits token by token through its cache against those of one call, of a few pictures."""

    name = "cached_loop"
    version = 8
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
    rounding_kl: float = setting(
        0.0, doc="mean KL(before || one call) where products round their inputs, nats per token; 0 elsewhere", low=0
    )

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> CachedLoop:
        """Score a few of the pictures step by step."""
        given, candidate = subject.given, subject.candidate
        few = given.examples.take(slice(PICTURES))
        stepwise = candidate.model.score_stepwise(few.inputs, few.features)
        one_call = candidate.scores[: len(few)]

        def kl_of(theirs: NDArray[np.float32], own: NDArray[np.float32]) -> Fidelity:
            return fidelity(theirs, own, few.targets, given.seed, few.scored, given.shape)

        found = kl_of(one_call, stepwise)
        before = subject.unrounded
        rounding = kl_of(before.score(few), one_call).kl if before else 0.0
        return cls(found.pictures, found.kl, found.kl_ci95, found.max_abs_difference, max(0.0, rounding))

    def broken(self) -> Iterator[Broken]:
        """Both compute the same."""
        if self.max_abs_difference > MOST_APART and self.kl > max(MOST_KL, self.rounding_kl):
            text = (
                f"logits of the cached loop differ from those of one call by up to {self.max_abs_difference:.3g} "
                f"(KL {self.kl:.2g} nats), but must be equal up to rounding; `compress bisect` names the layer and the "
                f"operator where they part"
            )
            yield Broken(self.name, self.max_abs_difference, MOST_APART, text)
