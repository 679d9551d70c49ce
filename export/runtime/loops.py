"""Running a decode graph step after step in ONNX Runtime, for every kind of cache: each a `drawing.Runner`.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, Z latent width, K
key/value heads, P cached positions, L length of a shared cache, d head width, B pictures, n positions of a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .binding import NO_GRAPH, NUMPY, Bound, run_options
from .caches import CACHES
from .choosing import Choice, Chosen
from .cuts import limits_of
from .devices import Device
from .drawing import Runner, opening
from .manifest import Manifest
from .signature import (
    CHOSEN,
    LOGITS,
    TOTALS,
    DecodeSignature,
    logits_port,
)

NOTHING_TO_CHOOSE = Choice(np.zeros((1, 1, 1), dtype=np.float32))  # a graph that samples has to be fed a choice


@dataclass(frozen=True)
class Sessions:
    """The decode graph; of a next-scale model that of tokens to what it reads, of a hoisted one what runs before."""

    decode: onnxruntime.InferenceSession
    scales: onnxruntime.InferenceSession | None = None
    begin: onnxruntime.InferenceSession | None = None
    device: Device = field(default_factory=Device)  # that all of them run on

    @property
    def taken(self) -> set[str]:
        """Inputs of the decode graph."""
        return {each.name for each in self.decode.get_inputs()}

    @property
    def numbers_of_a_row(self) -> int:
        """How many numbers that is for each row."""
        shapes = [] if self.begin is None else [each.shape[1:] for each in self.begin.get_outputs()]
        return sum(prod(shape) for shape in shapes)

    def run(self, names: Sequence[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs of one call of the decode graph, from and to the host."""
        options = run_options(NO_GRAPH) if self.device.captures else None
        made: list[NDArray[Any]] = self.decode.run(names, feeds, options)
        return made

    def begun(self, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What is computed once of classes (R,), and features of a text, and read at every step."""
        if self.begin is None:
            return {}
        names = [each.name for each in self.begin.get_outputs()]
        made = self.begin.run(names, {each.name: given[each.name] for each in self.begin.get_inputs()})
        return dict(zip(names, made, strict=True))

    def begin_into(self, bound: Bound, given: dict[str, NDArray[Any]]) -> None:
        """Compute the same into what a loop reads: on a device, it never leaves that."""
        if self.begin is None:
            return
        binding, rows = self.begin.io_binding(), len(next(iter(given.values())))
        for each in self.begin.get_inputs():
            binding.bind_cpu_input(each.name, given[each.name])
        made = {}
        for each in self.begin.get_outputs():
            zeros = np.zeros((rows, *each.shape[1:]), dtype=NUMPY[each.type])
            made[each.name] = bound.room(each.name, zeros)
            binding.bind_ortvalue_output(each.name, made[each.name])
        self.begin.run_with_iobinding(binding)
        for name, value in made.items():
            bound.bind(name, value)


def choice_feeds(choice: Choice) -> dict[str, NDArray[Any]]:
    """What a graph that samples reads of a choice; at temperature 0 there is no noise and nothing is divided.

    What cuts nothing is a limit that nothing reaches.
    """
    return {
        "noise": choice.noise,
        "guidance": np.array(choice.guidance, dtype=np.float32),
        "temperature": np.array(choice.temperature or 1.0, dtype=np.float32),
        **limits_of(choice.cuts),
    }


def text_feeds(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What a causal graph, or what runs before it, reads of the features of texts (R, P, C); zeros are padding."""
    return {"features": np.ascontiguousarray(features), "valid": (features != 0).any(axis=-1)}


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


def filled_up(rows: NDArray[Any], multiple: int) -> NDArray[Any]:
    """The rows and copies of the last one, up to a multiple."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % multiple, axis=0)])
