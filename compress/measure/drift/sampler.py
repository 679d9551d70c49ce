"""Sampling inside the graph against sampling outside: from the same logits and noise both choose the same tokens.

Drift of the logits does not show here, so the promise holds of quantized and pruned engines too. A graph that ignores
guidance, temperature, noise or a cut, or never draws a token, breaks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity

if TYPE_CHECKING:
    from compress.measure.subject import Subject
    from export.runtime.sampling import Sampler

PICTURES = 16  # drawn at once
# Equal scores after noise, and sums of top-p at its limit, may be rounded apart; a token in a thousand is far above it.
MOST_APART = 1e-3


@dataclass(frozen=True)
class SamplerCheck(Measure):
    """How an engine chooses tokens, against the reference's settings and the sampler outside of graphs."""

    name = "sampler"
    stage = "engines"
    promises = ("sampler_tokens", "sampler")
    title = "Sampler"
    caption = "Sampling inside the graph against the same logits sampled outside"

    pictures: int = setting(doc="pictures that were drawn", low=1)
    tokens: int = setting(doc="tokens that were chosen; 0 where the graph only makes logits", low=0)
    apart: float = quantity(
        doc="share of tokens that the graph chose otherwise than the sampler outside, from the same logits and noise",
        unit="percent",
        column="other tokens %",
        gate=Limit("sampler_tokens", "most tokens that the graph chooses otherwise than the sampler outside", high=1),
        low=0,
        high=1,
    )
    settings: str = setting("", doc="settings of the sampler that are not the reference's; empty where all are")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Engines; models in PyTorch sample outside."""
        return subject.candidate.engine is not None

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models, whose settings are compared, and the pictures."""
        return *subject.keys, *subject.given.drawn, subject.given.fingerprint

    @classmethod
    def run(cls, subject: Subject) -> SamplerCheck:
        """Draw a few pictures and choose every token twice."""
        engine, given = subject.candidate.engine, subject.given
        assert engine is not None
        count = min(PICTURES, max(given.samples, 1))
        apart, tokens = engine.compare_choices(*given.conditions(count), given.seed)
        settings = differing(engine.sampler, subject.reference.model.sampler)
        return cls(count, tokens, apart / tokens if tokens else 0.0, settings)

    def broken(self) -> Iterator[Broken]:
        """The graph chooses as the sampler outside does, with the reference's settings."""
        if self.apart > MOST_APART:
            text = (
                f"the graph chooses {100 * self.apart:.3g} % of its tokens otherwise than the sampler does from the "
                f"same logits and noise, but must choose the same"
            )
            yield Broken("sampler_tokens", self.apart, MOST_APART, text)
        if self.settings:
            yield Broken("sampler", 1, 0, f"its sampler is not the reference's: {self.settings}")


def differing(own: Sampler, theirs: Sampler) -> str:
    """Settings that are not the other's, in words; empty where all are."""
    names = [each.name for each in fields(own) if getattr(own, each.name) != getattr(theirs, each.name)]
    return ", ".join(f"{name} {getattr(own, name)}, not {getattr(theirs, name)}" for name in names)
