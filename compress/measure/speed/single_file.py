"""The time of the whole generation in one file against that of the same engine step by step.

Letters: N pictures, P x C features of a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.speed.timing import paired
from export.runtime.engine import Engine

if TYPE_CHECKING:
    from compress.measure.subject import Subject


@dataclass(frozen=True)
class SingleFile(Measure):
    """What the one file costs."""

    name = "single_file"
    version = 6
    stage = "engines"
    timed = True
    verified = "never"

    median_ms: float = setting(doc="median time to draw and decode a picture, milliseconds")
    ratio: float = setting(doc="its time over that of the engine step by step: above 1 it is slower")
    ratio_ci95: tuple[float, float] = setting(doc="its exact interval")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Engines that hold such a file."""
        engine = subject.candidate.engine
        return engine is not None and "generate" in engine.manifest.files

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The candidate and how it is timed."""
        given = subject.given
        return subject.candidate.key, given.batch, *given.timed

    @classmethod
    def run(cls, subject: Subject) -> SingleFile:
        """Draw one batch both ways."""
        given, candidate = subject.given, subject.candidate
        assert candidate.engine is not None
        with given.listener.work(f"draw with {candidate.name} in one file") as progress:
            progress(0, 1, {})
            return single_file(candidate.engine, *given.conditions(given.batch), given.repeats, given.seed)


def single_file(
    engine: Engine, labels: NDArray[np.int64], features: NDArray[np.float32] | None, repeats: int, seed: int
) -> SingleFile:
    """Draw pictures (N,) both ways, interleaved in one process."""
    runners = {
        "one": lambda: engine.draw_in_one(labels, seed, features),
        "steps": lambda: engine.decode_images(engine.draw_tokens(labels, seed, features=features)),
    }
    timings = paired(runners, repeats, seed=seed)
    slower = timings.speedup("steps", "one")  # one / steps
    return SingleFile(timings.median_ms("one").value, slower.value, slower.ci95)
