"""Running a decode graph step after step in ONNX Runtime: which loop (`drawing.Runner`) a manifest's graph wants.

Letters: R rows of a step, S positions of a call, O logits of a position, P x C features of a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cached_loops import Loop, ScaleLoop, TextLoop
from .drawing import Runner
from .feeds import choice_feeds, filled_up, text_feeds
from .manifest import Manifest
from .sessions import Sessions
from .uncached_loops import FedLoop, RepeatingLoop, WholeLoop

__all__ = ["FedLoop", "Loop", "Parts", "Sessions", "choice_feeds", "make_loop", "new_loop", "text_feeds"]


def new_loop(sessions: Sessions, manifest: Manifest, rows: int) -> Runner:
    """A loop for this many rows, in parts where the graph has a fixed batch."""
    return (Parts if manifest.fixed_batch else make_loop)(sessions, manifest, rows)


def make_loop(sessions: Sessions, manifest: Manifest, rows: int) -> Runner:
    """The loop that the manifest's graph wants."""
    if manifest.cache == "none":
        kind = WholeLoop if manifest.shape.drawing.masks else RepeatingLoop
        return kind(sessions, manifest, rows)
    if manifest.shape.drawing.scaled:
        return ScaleLoop(sessions, manifest, rows)
    if manifest.shape.text and manifest.cache == "growing":
        return TextLoop(sessions, manifest, rows)
    return Loop(sessions, manifest, rows)


class Parts:
    """Any number of rows with a graph of a fixed batch: a loop for each part, the last part filled up."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.rows, self.size = rows, manifest.fixed_batch
        count = -(-rows // self.size)
        self.loops = [make_loop(sessions, manifest, self.size) for _ in range(count)]

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token, unless the model is masked."""
        given = [labels, features, prompt]
        split = [[None] * len(self.loops) if each is None else self.split(each) for each in given]
        parts = [loop.begin(*part) for loop, part in zip(self.loops, zip(*split, strict=True), strict=True)]
        made = [part for part in parts if part is not None]
        return np.concatenate(made)[: self.rows] if made else None

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of what comes next."""
        parts = [loop.step(part, positions) for loop, part in zip(self.loops, self.split(tokens), strict=True)]
        return np.concatenate(parts)[: self.rows]

    def split(self, rows: NDArray[Any]) -> list[NDArray[Any]]:
        """The rows for each loop."""
        return np.split(filled_up(rows, self.size), len(self.loops))
