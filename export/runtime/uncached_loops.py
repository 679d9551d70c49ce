"""Loops over a decode graph without a cache: a masked model reads all at every step, a causal one all up to there.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, P x C features of a
text, B pictures, n positions of a choice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .binding import Bound
from .choosing import Choice, Chosen
from .drawing import opening
from .feeds import NOTHING_TO_CHOOSE, choice_feeds
from .manifest import Manifest
from .sessions import Sessions
from .signature import CHOSEN, LOGITS, TOTALS


class FedLoop:
    """A graph without a cache: logits of any number of positions, from inputs of any size."""

    position = 0  # of a cache, which it has not

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.sessions, self.shape = sessions, manifest.shape
        self.bound = Bound(sessions.decode, sessions.device)
        self.chosen_too = sorted({each.name for each in sessions.decode.get_outputs()} & CHOSEN.keys())
        self.wanted = [LOGITS]
        if manifest.sampling:
            self.take(NOTHING_TO_CHOOSE)

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """What `drawing.Runner` says."""
        raise NotImplementedError

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """What `drawing.Runner` says."""
        raise NotImplementedError

    def held(self) -> dict[str, NDArray[Any]]:
        """What was read so far (R, ...), as `resume` takes it; a masked model reads all anew at every step."""
        raise NotImplementedError

    def resume(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        held: dict[str, NDArray[Any]],
        position: int,
    ) -> None:
        """Go on behind what loops of these classes (R,) held."""
        raise NotImplementedError

    def take(self, choice: Choice) -> None:
        """How the next tokens are chosen, of a graph that samples."""
        for name, value in choice_feeds(choice).items():
            if name in self.sessions.taken:
                self.bound.feed(name, value)

    def choosing(self, inside: bool, *, logits: bool = True) -> None:
        """Whether the graph chooses tokens; where only sums of the `logits` are needed, these stay on the device."""
        needless = inside and not logits and TOTALS in self.chosen_too
        self.wanted = [*(() if needless else (LOGITS,)), *(self.chosen_too if inside else ())]

    def chosen(self) -> Chosen:
        """What was chosen (B, n)."""
        sureness = self.bound.read("sureness") if "sureness" in self.wanted else NOTHING_TO_CHOOSE.noise
        return Chosen(self.bound.read("drawn"), sureness, sureness)

    def call(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, S, O) of tokens (R, S), or sums of them (R, n) where the graph chooses."""
        self.bound.feed("tokens", tokens)
        self.bound.forget_outputs()  # each call gives others, of other sizes
        for name in self.wanted:
            self.bound.give(name)
        self.bound.run()
        said: NDArray[np.float32] = self.bound.read(TOTALS if LOGITS not in self.wanted else LOGITS)
        return said


class WholeLoop(FedLoop):
    """A masked model: all positions at every step, nothing to remember but the classes and a text's features."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        super().__init__(sessions, manifest, rows)
        self.every = np.arange(manifest.shape.length)
        self.chooses = "positions" in sessions.taken

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Take the classes (R,), and features (R, P, C) where the model has a text."""
        given: dict[str, NDArray[Any]] = {"labels": np.ascontiguousarray(labels)}
        if features is not None:
            given["features"] = np.ascontiguousarray(features)
        for name in given.keys() & self.sessions.taken:
            self.bound.feed(name, given[name])
        self.sessions.begin_into(self.bound, given)
        return None

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, n, O) of positions (n,) of tokens (R, T)."""
        wanted = self.every if positions is None else positions
        if not self.chooses:
            said = self.call(tokens)
            return said[:, wanted] if LOGITS in self.wanted else said
        self.bound.feed("positions", wanted)
        return self.call(tokens)


class RepeatingLoop(FedLoop):
    """A causal graph without a cache: every step reads all tokens up to here again."""

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these classes (R,), behind a prompt (R, S)."""
        self.tokens = np.zeros((len(labels), 0), dtype=np.int64)
        if "labels" in self.sessions.taken:
            self.bound.feed("labels", labels)
        return self.step(opening(self.shape, labels, prompt))

    def held(self) -> dict[str, NDArray[Any]]:
        """The tokens that were read (R, S)."""
        return {"tokens": self.tokens}

    def resume(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        held: dict[str, NDArray[Any]],
        position: int,
    ) -> None:
        """Go on behind these tokens."""
        self.tokens = held["tokens"]
        if "labels" in self.sessions.taken:
            self.bound.feed("labels", labels)

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens = np.concatenate([self.tokens, tokens], axis=1)
        said = self.call(self.tokens)
        return said[:, -1:] if LOGITS in self.wanted else said
