"""A call that draws the same pictures each time, and notes when tokens were there and what energy it took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compress.measure.speed.energy import Meter

if TYPE_CHECKING:
    from compress.models.candidate import Candidate


@dataclass
class Drawing:
    """Draws pictures (N, H, W, C) of these classes (N,), or of texts with these features, at each call.

    `first` and `last` hold the seconds of each call until its first and its last step's tokens were there; the call
    goes on to decode them. `joules` holds the energy of each call, and is empty where none can be read.
    """

    drawer: Candidate
    labels: NDArray[np.int64]
    features: NDArray[np.float32] | None
    meter: Meter = field(default_factory=Meter)
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    def __call__(self) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C)."""
        moments: list[float] = []
        energy, begun = self.meter.read(), time.perf_counter()
        tokens = self.drawer.draw_tokens(
            self.labels, features=self.features, on_step=lambda: moments.append(time.perf_counter())
        )
        images = self.drawer.decode_images(tokens)
        self.first.append(moments[0] - begun)
        self.last.append(moments[-1] - begun)
        if energy is not None:
            self.joules.append(self.meter.since(energy))
        return images

    def of_rounds(self, rounds: int) -> Rounds:
        """What was noted in the latest calls, which are the timed ones."""
        return Rounds(*(np.array(each[-rounds:]) for each in (self.first, self.last, self.joules)))


@dataclass(frozen=True)
class Rounds:
    """Seconds to the first and the last tokens, and joules (none, or as many), of each timed call."""

    first: NDArray[np.float64]
    last: NDArray[np.float64]
    joules: NDArray[np.float64]
