"""The share of the matrix products' time that really ran in low precision: a silent fall-back to fp32 shows here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import plain
from compress.measure.measure import Measure
from compress.measure.quantity import Finding, Limit, quantity
from compress.measure.speed.environment import environment
from export.runtime.profiling import low_precision_share

if TYPE_CHECKING:
    from compress.measure.measurement import Measurement
    from compress.measure.subject import Subject


@dataclass(frozen=True)
class LowPrecision(Measure):
    """How much of an engine's products runs in low precision, by the runtime's own profile."""

    name = "low_precision_share"
    version = 5
    stage = "engines"
    timed = True
    verified = "asked"
    deployed = True

    value: float = quantity(
        doc="share of matrix-product time that ran in low precision",
        unit="percent",
        better="higher",
        gate=Limit("low_precision_share", "least share of matrix-product time that runs in low precision", high=1),
    )

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Engines alone, on their own runtime."""
        return subject.candidate.engine is not None and subject.candidate.engine.runs_as_deployed

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The candidate and the machine."""
        return subject.candidate.key, plain(environment())

    @classmethod
    def run(cls, subject: Subject) -> LowPrecision:
        """Draw once under the profiler."""
        assert subject.candidate.engine is not None
        return cls(low_precision_share(subject.candidate.engine.profile()))

    def in_row(self) -> float:
        """The share alone."""
        return self.value

    @classmethod
    def findings(cls, row: Measurement, field: str) -> Iterator[Finding]:
        """The share, as a row holds it."""
        if row.low_precision_share is not None:
            yield Finding(row.low_precision_share)
