"""Loops over a decode graph that remembers what it read: token by token behind a text or a class, or scale by scale.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, Z latent width, P x C
features of a text, B pictures, n positions of a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .binding import Bound
from .caches import CACHES
from .choosing import Choice, Chosen
from .drawing import opening
from .feeds import NOTHING_TO_CHOOSE, choice_feeds, text_feeds
from .manifest import Manifest
from .sessions import Sessions
from .signature import LOGITS, TOTALS, DecodeSignature, logits_port


class Loop:
    """Token by token for a fixed number of rows: buffers are made and bound once, a step only writes into them."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.sessions, self.manifest, self.shape, self.rows = sessions, manifest, manifest.shape, rows
        self.bound = Bound(sessions.decode, sessions.device)
        self.kept: dict[str, list[NDArray[Any]]] = {}  # further outputs of the graph, call by call
        self.logits = logits_port(self.shape)
        self.totals = TOTALS in {each.name for each in sessions.decode.get_outputs()}
        self.said = LOGITS
        self.bound.feed("tokens", np.zeros((rows, 1), dtype=np.int64))
        self.bound.give(LOGITS, self.logits.zeros(batch=rows, tokens=1))
        if "labels" in sessions.taken:
            self.bound.feed("labels", np.zeros(rows, dtype=np.int64))
        self.ports = DecodeSignature.of(manifest).caches
        self.position = 0
        self.cache = CACHES[manifest.cache](self)
        self.captured = self.cache.fixed and sessions.device.captures  # whether a step is one captured graph
        self.chosen_of = (0, 0)
        if manifest.sampling:
            self.take(NOTHING_TO_CHOOSE)

    def take(self, choice: Choice) -> None:
        """How the next tokens are chosen, of a graph that samples."""
        for name, value in choice_feeds(choice).items():
            if name in self.sessions.taken:
                self.bound.feed(name, value)
        if self.chosen_of != choice.noise.shape[:2]:
            self.chosen_of = choice.noise.shape[:2]
            self.bound.give("drawn", np.zeros(self.chosen_of, dtype=np.int64))
            if self.totals:
                self.bound.give(TOTALS, np.zeros((self.rows, self.chosen_of[1]), dtype=np.float32))

    def chosen(self) -> Chosen:
        """What was chosen (B, n); the array is overwritten by the next step."""
        return Chosen(self.bound.read("drawn"), NOTHING_TO_CHOOSE.noise, NOTHING_TO_CHOOSE.noise)

    def restart(self) -> None:
        """Forget the cache."""
        self.position = 0
        self.cache.restart(self)

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these classes (R,), behind a prompt (R, S)."""
        self.restart()
        self.know(labels, features)
        return self.read(opening(self.shape, labels, prompt))

    def held(self) -> dict[str, NDArray[Any]]:
        """What was read so far (R, ...), as `resume` takes it."""
        return self.cache.held(self)

    def resume(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        held: dict[str, NDArray[Any]],
        position: int,
    ) -> None:
        """Go on behind what loops of these classes (R,) and features (R, P, C) held, at that position."""
        self.restart()
        self.know(labels, features)
        self.cache.take(self, held)
        self.position = position

    def know(self, labels: NDArray[np.int64], features: NDArray[np.float32] | None) -> None:
        """Take the classes (R,) and features of a text (R, P, C), and compute what depends on them alone."""
        given = {"labels": np.ascontiguousarray(labels), **({} if features is None else text_feeds(features))}
        for name, value in given.items():
            if name in self.sessions.taken:
                self.bound.feed(name, value)
        self.sessions.begin_into(self.bound, given)

    def read(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind tokens (R, S), in one call unless that would end a captured graph."""
        if tokens.shape[1] == 1 or self.captured:
            for column in np.split(tokens, tokens.shape[1], axis=1):
                last = self.step(column)
            return last
        self.bound.feed("tokens", tokens)
        self.bound.give(LOGITS)
        last = self.run(max(tokens.shape[1], 1))[:, -1:]
        self.bound.give(LOGITS, self.logits.zeros(batch=self.rows, tokens=1))
        return last

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1); the array is overwritten by the next step."""
        self.bound.feed("tokens", tokens)
        return self.run(1)

    def choosing(self, inside: bool, *, logits: bool = True) -> None:
        """Whether the graph chooses tokens; where only sums of the `logits` are needed, these stay on the device."""
        self.said = TOTALS if inside and self.totals and not logits else LOGITS

    def run(self, count: int) -> NDArray[np.float32]:
        """One call with what is bound, for so many positions: logits (R, S, O), or sums of the last ones (R, 1)."""
        self.cache.before(self, count)
        self.position += count
        for name in self.kept:
            self.bound.give(name)
        self.bound.run(capture=self.captured and count == 1)
        self.cache.after(self)
        for name, values in self.kept.items():
            values.append(self.bound.read(name).copy())
        said: NDArray[np.float32] = self.bound.read(self.said)
        return said

    def keep(self, names: Sequence[str]) -> None:
        """Keep these outputs of every call from now on."""
        self.kept = {name: [] for name in names}

    def whole(self, name: str) -> NDArray[Any]:
        """What was kept of an output: positions (R, S, ...) behind each other, or plain numbers of anything else."""
        parts = self.kept[name]
        if parts[0].ndim == 3 and len({part.shape[2] for part in parts}) == 1:
            return np.concatenate(parts, axis=1)
        return np.concatenate([part.ravel() for part in parts])


class TextLoop(Loop):
    """A text's features go first, all in one call; afterwards they are of length 0. A growing cache has no other way.

    With a static one every call gets the whole text, and reads of it what stands at its positions: a `Loop`.
    """

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these texts (R, P, C), behind a prompt (R, S)."""
        assert features is not None
        self.restart()
        self.know(labels, features)
        first = self.read(np.zeros((self.rows, 0), dtype=np.int64))
        self.bound.feed("features", features[:, :0])
        return first if prompt is None else self.read(prompt)

    def resume(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        held: dict[str, NDArray[Any]],
        position: int,
    ) -> None:
        """As a `Loop`; the features were read."""
        assert features is not None
        super().resume(labels, features, held, position)
        self.bound.feed("features", features[:, :0])


class ScaleLoop(Loop):
    """Scale by scale: what the model reads of one comes from the tokens of the coarser ones."""

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first scale of these classes (R,)."""
        self.restart()
        self.know(labels, features)
        return self.advance(np.zeros((self.rows, 1, self.shape.latent_width), dtype=np.float32))

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, side^2, O) of the next scale, from tokens (R, T) that are known up to it."""
        assert self.sessions.scales is not None
        latents = self.sessions.scales.run(["latents"], {"tokens": tokens})[0]
        end = self.position + self.shape.side_at(self.position) ** 2
        return self.advance(latents[:, self.position - 1 : end - 1])

    def advance(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (R, S, O) of latents (R, S, Z)."""
        self.bound.feed("tokens", latents)
        self.bound.give(LOGITS)  # of another size at every scale
        return self.run(latents.shape[1])
