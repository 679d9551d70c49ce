"""Running a decode graph step after step in ONNX Runtime, for every kind of cache: each a `drawing.Runner`.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, Z latent width, K
key/value heads, P cached positions, L length of a shared cache, d head width, B pictures, n positions of a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .caches import CACHES
from .choosing import Choice, Chosen, check_sound, choose
from .cuts import limits_of
from .drawing import Runner, opening
from .manifest import Manifest
from .sampling import Sampler
from .shape import Shape
from .signature import DecodeSignature, chosen_ports

SURE = 1e-3  # by which logits and log-probabilities of one token may be rounded apart
NOTHING_TO_CHOOSE = Choice(np.zeros((1, 1, 1), dtype=np.float32))  # a graph that samples has to be fed a choice


@dataclass(frozen=True)
class Sessions:
    """The decode graph; of a next-scale model that of tokens to what it reads, of a hoisted one what runs before."""

    decode: onnxruntime.InferenceSession
    scales: onnxruntime.InferenceSession | None = None
    begin: onnxruntime.InferenceSession | None = None

    @property
    def taken(self) -> set[str]:
        """Inputs of the decode graph."""
        return {each.name for each in self.decode.get_inputs()}

    @property
    def numbers_of_a_row(self) -> int:
        """How many numbers that is for each row."""
        shapes = [] if self.begin is None else [each.shape[1:] for each in self.begin.get_outputs()]
        return sum(prod(shape) for shape in shapes)

    def begun(self, given: dict[str, NDArray[Any]]) -> dict[str, onnxruntime.OrtValue]:
        """What is computed once of classes (R,), and features of a text, and read at every step."""
        if self.begin is None:
            return {}
        names = [each.name for each in self.begin.get_outputs()]
        feeds = {
            each.name: onnxruntime.OrtValue.ortvalue_from_numpy(given[each.name]) for each in self.begin.get_inputs()
        }
        return dict(zip(names, self.begin.run_with_ort_values(names, feeds), strict=True))


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
        self.binding = sessions.decode.io_binding()
        self.outputs: list[str] = []
        self.kept: dict[str, list[NDArray[Any]]] = {}  # further outputs of the graph, call by call
        self.tokens = np.zeros((rows, 1), dtype=np.int64)
        self.labels = np.zeros(rows, dtype=np.int64)
        self.logits = np.zeros((rows, 1, self.shape.predicted), dtype=np.float32)
        self.binding.bind_cpu_input("tokens", self.tokens)
        if "labels" in sessions.taken:
            self.binding.bind_cpu_input("labels", self.labels)
        self.bind_output("logits", self.logits)
        self.ports = DecodeSignature.of(manifest).caches
        self.position = 0
        self.text: dict[str, NDArray[Any]] = {}
        self.cache = CACHES[manifest.cache](self)
        self.drawn = np.zeros((0, 0), dtype=np.int64)
        if manifest.sampling:
            self.choice = {
                name: value for name, value in choice_feeds(NOTHING_TO_CHOOSE).items() if name in sessions.taken
            }
            for name, value in self.choice.items():
                self.binding.bind_cpu_input(name, value)
            self.take(NOTHING_TO_CHOOSE)

    def take(self, choice: Choice) -> None:
        """How the next tokens are chosen, of a graph that samples."""
        feeds = choice_feeds(choice)
        for name, value in self.choice.items():
            if name == "noise":
                self.choice[name] = feeds[name]
                self.binding.bind_cpu_input(name, feeds[name])
            else:
                value[...] = feeds[name]
        if self.drawn.shape != choice.noise.shape[:2]:
            self.drawn = np.zeros(choice.noise.shape[:2], dtype=np.int64)
            self.bind_output("drawn", self.drawn)

    def chosen(self) -> Chosen:
        """What was chosen (B, n); the array is overwritten by the next step."""
        return Chosen(self.drawn, NOTHING_TO_CHOOSE.noise, NOTHING_TO_CHOOSE.noise)

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

    def know(self, labels: NDArray[np.int64], features: NDArray[np.float32] | None) -> None:
        """Take the classes (R,) and features of a text (R, P, C), and compute what depends on them alone."""
        self.labels[:] = labels
        self.text = {} if features is None else text_feeds(features)
        for name, value in self.text.items():
            if name in self.sessions.taken:
                self.binding.bind_cpu_input(name, value)
        for name, value in self.sessions.begun({"labels": self.labels, **self.text}).items():
            self.binding.bind_ortvalue_input(name, value)

    def read(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind tokens (R, S) that are read in one call."""
        if tokens.shape[1] == 1:
            return self.step(tokens)
        tokens = np.ascontiguousarray(tokens)
        self.binding.bind_cpu_input("tokens", tokens)
        self.bind_output("logits")
        last = self.run(max(tokens.shape[1], 1))[:, -1:]
        self.binding.bind_cpu_input("tokens", self.tokens)
        self.bind_output("logits", self.logits)
        return last

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1); the array is overwritten by the next step."""
        self.tokens[:] = tokens
        self.run(1)
        return self.logits

    def run(self, count: int) -> NDArray[np.float32]:
        """One call with what is bound, for so many positions: logits (R, S, O)."""
        self.cache.before(self, count)
        self.position += count
        for name in self.kept:
            self.bind_output(name)
        self.sessions.decode.run_with_iobinding(self.binding)
        self.cache.after(self)
        for name, values in self.kept.items():
            values.append(self.output(name).numpy().copy())
        logits: NDArray[np.float32] = self.output("logits").numpy()
        return logits

    def keep(self, names: Sequence[str]) -> None:
        """Keep these outputs of every call from now on."""
        self.kept = {name: [] for name in names}

    def whole(self, name: str) -> NDArray[Any]:
        """What was kept of an output: positions (R, S, ...) behind each other, or plain numbers of anything else."""
        parts = self.kept[name]
        if parts[0].ndim == 3 and len({part.shape[2] for part in parts}) == 1:
            return np.concatenate(parts, axis=1)
        return np.concatenate([part.ravel() for part in parts])

    def output(self, name: str) -> onnxruntime.OrtValue:
        """What the last call gave."""
        return self.binding.get_outputs()[self.outputs.index(name)]

    def bind_output(self, name: str, array: NDArray[Any] | None = None) -> None:
        """Let an output be written into an array, or into memory that the runtime makes."""
        if name not in self.outputs:
            self.outputs.append(name)
        if array is None:
            self.binding.bind_output(name, "cpu")
        else:
            self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)


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
        self.text["features"] = features[:, :0].copy()
        self.binding.bind_cpu_input("features", self.text["features"])
        return first if prompt is None else self.read(prompt)


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
        latents = np.ascontiguousarray(latents)
        self.binding.bind_cpu_input("tokens", latents)
        self.bind_output("logits")  # of another size at every scale
        return self.run(latents.shape[1])


class FedLoop:
    """A graph without a cache, fed with arrays at every call."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.sessions, self.session, self.shape = sessions, sessions.decode, manifest.shape
        self.outputs = [each.name for each in self.session.get_outputs()]
        self.feeds: dict[str, NDArray[Any]] = {}
        self.choice = choice_feeds(NOTHING_TO_CHOOSE) if manifest.sampling else {}
        self.found: dict[str, NDArray[Any]] = {}

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

    def take(self, choice: Choice) -> None:
        """How the next tokens are chosen, of a graph that samples."""
        self.choice = choice_feeds(choice)

    def chosen(self) -> Chosen:
        """What was chosen (B, n)."""
        sureness = self.found.get("sureness", NOTHING_TO_CHOOSE.noise)
        return Chosen(self.found["drawn"], sureness, sureness)

    def call(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, S, O) of tokens (R, S)."""
        choice = {name: value for name, value in self.choice.items() if name in self.sessions.taken}
        made = self.session.run(self.outputs, {"tokens": tokens, **self.feeds, **choice})
        self.found = dict(zip(self.outputs, made, strict=True))
        return self.found["logits"]


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
        given = {"labels": labels}
        if features is not None:
            given["features"] = np.ascontiguousarray(features)
        begun = {name: value.numpy() for name, value in self.sessions.begun(given).items()}
        self.feeds = {name: value for name, value in given.items() if name in self.sessions.taken} | begun
        return None

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, n, O) of positions (n,) of tokens (R, T)."""
        wanted = self.every if positions is None else positions
        if not self.chooses:
            return self.call(tokens)[:, wanted]
        self.feeds["positions"] = wanted
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
        self.feeds = {"labels": labels} if self.shape.labelled else {}
        return self.step(opening(self.shape, labels, prompt))

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens = np.concatenate([self.tokens, tokens], axis=1)
        return self.call(self.tokens)[:, -1:]


class GraphDrawer:
    """A drawer whose graph chooses the tokens; of the logits only the largest is read, to find NaN."""

    def __init__(self, loop: Loop | FedLoop) -> None:
        self.loop = loop

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """The first tokens, where the model is not masked."""
        if choice is not None:
            self.loop.take(choice)
        logits = self.loop.begin(labels, features, prompt)
        if choice is None or logits is None:
            return None
        return self.chosen(logits, choice)

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """What is chosen next; of a masked model at these positions (n,)."""
        self.loop.take(choice)
        return self.chosen(self.loop.step(tokens, positions), choice)

    def chosen(self, logits: NDArray[np.float32], choice: Choice) -> Chosen:
        """What the graph chose beside these logits (R, n, O)."""
        check_sound(logits.max(axis=-1))
        return self.loop.chosen()


class ComparingDrawer(GraphDrawer):
    """A drawer that chooses outside, too: `apart` of all `tokens` the graph chose, or was sure of, otherwise."""

    def __init__(self, loop: Loop | FedLoop, sampler: Sampler, shape: Shape) -> None:
        super().__init__(loop)
        self.by_logit, self.surest = sampler.reveal == "logit", "sureness" in chosen_ports(shape, sampler)
        self.apart = self.tokens = 0

    def chosen(self, logits: NDArray[np.float32], choice: Choice) -> Chosen:
        """What the graph chose, which goes on."""
        found, outside = super().chosen(logits, choice), choose(logits, choice, with_sureness=self.surest)
        differs = found.tokens != outside.tokens
        if self.surest:
            sureness = outside.logit if self.by_logit else outside.log_probability
            differs |= ~np.isclose(found.log_probability, sureness, rtol=SURE, atol=SURE)
        self.apart, self.tokens = self.apart + int(differs.sum()), self.tokens + differs.size
        return found


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
