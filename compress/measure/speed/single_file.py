"""The whole generation in one file against the same engine step by step: whether it draws the same, and how fast.

Letters: N pictures, P x C features of a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.speed.timing import paired
from export.runtime.engine import Engine


@dataclass(frozen=True)
class SingleFile:
    """What the one file costs."""

    same_tokens: bool = setting(doc="whether it draws the tokens that the engine draws step by step")
    median_ms: float = setting(doc="median time to draw and decode a picture, milliseconds")
    ratio: float = setting(doc="its time over that of the engine step by step: above 1 it is slower")
    ratio_ci95: tuple[float, float] = setting(doc="its exact interval")


def single_file(
    engine: Engine, labels: NDArray[np.int64], features: NDArray[np.float32] | None, repeats: int, seed: int
) -> SingleFile:
    """Draw pictures (N,) both ways, interleaved in one process."""
    runners = {
        "one": lambda: engine.draw_in_one(labels, seed, features),
        "steps": lambda: engine.decode_images(engine.draw_tokens(labels, seed, features=features)),
    }
    tokens, _ = engine.draw_in_one(labels, seed, features)
    same = bool((tokens == engine.draw_tokens(labels, seed, features=features)).all())
    timings = paired(runners, repeats, seed=seed)
    slower = timings.speedup("steps", "one")  # one / steps
    return SingleFile(same, timings.median_ms("one").value, slower.value, slower.ci95)
