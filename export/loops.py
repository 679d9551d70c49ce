"""Running a decode graph step after step in ONNX Runtime, for every kind of cache: each an `export.drawing.Runner`.

Letters: R rows of a step, S positions of a call, T tokens of a picture, O logits of a position, Z latent width, K
key/value heads, P cached positions, L length of a shared cache, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.drawing import Runner
from export.manifest import Manifest


@dataclass(frozen=True)
class Sessions:
    """The decode graph, and of a next-scale model the graph of tokens to what it reads."""

    decode: onnxruntime.InferenceSession
    scales: onnxruntime.InferenceSession | None = None


class Loop:
    """Token by token for a fixed number of rows: buffers are made and bound once, a step only writes into them."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.sessions, self.manifest, self.shape, self.rows = sessions, manifest, manifest.shape, rows
        self.binding = sessions.decode.io_binding()
        self.tokens = np.zeros((rows, 1), dtype=np.int64)
        self.labels = np.zeros(rows, dtype=np.int64)
        self.logits = np.zeros((rows, 1, self.shape.predicted), dtype=np.float32)
        self.binding.bind_cpu_input("tokens", self.tokens)
        if self.shape.labelled:
            self.binding.bind_cpu_input("labels", self.labels)
        self._bind_output("logits", self.logits)
        self.names = [f"{layer}.{part}" for layer in range(len(manifest.kv_heads)) for part in ("key", "value")]
        self.position = 0

    def restart(self) -> None:
        """Forget the cache."""
        self.position = 0

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these classes (R,)."""
        self.restart()
        self.labels[:] = labels
        for _ in range(self.shape.lead):
            self.step(np.full((self.rows, 1), self.shape.start_token))
        return self.step(labels[:, None] + self.shape.first_class)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1); the array is overwritten by the next step."""
        raise NotImplementedError

    def _bind_output(self, name: str, array: NDArray[Any]) -> None:
        self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _cache_shape(self, name: str, length: int) -> tuple[int, int, int, int]:
        heads = self.manifest.kv_heads[int(name.split(".")[0])]
        return (self.rows, heads, length, self.manifest.head_width)


class GrowingLoop(Loop):
    """Past in, longer present out: the outputs of a step are bound as the next one's inputs."""

    def restart(self) -> None:
        """Forget the cache."""
        super().restart()
        for name in self.names:
            empty = np.zeros(self._cache_shape(name, 0), dtype=np.float32)
            self.binding.bind_ortvalue_input(f"past.{name}", onnxruntime.OrtValue.ortvalue_from_numpy(empty))

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        self.run()
        return self.logits

    def run(self) -> NDArray[np.float32]:
        """One call with what is bound; its present becomes the past. Returns logits (R, S, O)."""
        for name in self.names:  # a bound output keeps its last buffer, so each step asks for a new one
            self.binding.bind_output(f"present.{name}", "cpu")
        self.sessions.decode.run_with_iobinding(self.binding)
        logits, *present = self.binding.get_outputs()
        for name, value in zip(self.names, present, strict=True):
            self.binding.bind_ortvalue_input(f"past.{name}", value)
        return logits.numpy()


class TextLoop(GrowingLoop):
    """A text's features go first, all in one call; afterwards they are of length 0."""

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these texts (R, P, C)."""
        assert features is not None
        self.restart()
        self.labels[:] = labels
        self.none, self.empty = np.zeros((self.rows, 0), dtype=np.int64), features[:, :0].copy()
        self.features, self.valid = np.ascontiguousarray(features), (features != 0).any(axis=-1)
        self.binding.bind_cpu_input("tokens", self.none)
        self.binding.bind_cpu_input("features", self.features)
        self.binding.bind_cpu_input("valid", self.valid)
        self.binding.bind_output("logits", "cpu")
        first = self.run()[:, -1:]
        self.binding.bind_cpu_input("tokens", self.tokens)
        self.binding.bind_cpu_input("features", self.empty)
        self._bind_output("logits", self.logits)
        return first


class ScaleLoop(GrowingLoop):
    """Scale by scale: what the model reads of one comes from the tokens of the coarser ones."""

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first scale of these classes (R,)."""
        self.restart()
        self.labels[:] = labels
        return self.advance(np.zeros((self.rows, 1, self.shape.latent_width), dtype=np.float32))

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, side^2, O) of the next scale, from tokens (R, T) that are known up to it."""
        assert self.sessions.scales is not None
        latents = self.sessions.scales.run(["latents"], {"tokens": tokens})[0]
        end = self.position + self.shape.side_at(self.position) ** 2
        return self.advance(latents[:, self.position - 1 : end - 1])

    def advance(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (R, S, O) of latents (R, S, Z)."""
        latents = np.ascontiguousarray(latents)
        self.binding.bind_cpu_input("tokens", latents)
        self.binding.bind_output("logits", "cpu")  # of another size at every scale
        self.position += latents.shape[1]
        return self.run()


class BufferLoop(Loop):
    """Caches of full length that a step updates in place: each is bound once as past and as present."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        super().__init__(sessions, manifest, rows)
        self.caches = {}
        for name in self.names:
            cache = np.zeros(self._cache_shape(name, self.shape.reach), dtype=np.float32)
            self.caches[name] = cache
            self.binding.bind_cpu_input(f"past.{name}", cache)
            self._bind_output(f"present.{name}", cache)


class SharedLoop(BufferLoop):
    """GroupQueryAttention in place; the lengths tell it how much of the cache is filled."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        super().__init__(sessions, manifest, rows)
        self.seqlens_k = np.zeros(rows, dtype=np.int32)
        self.total = np.zeros((), dtype=np.int32)
        self.binding.bind_cpu_input("seqlens_k", self.seqlens_k)
        self.binding.bind_cpu_input("total_sequence_length", self.total)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        self.seqlens_k.fill(self.position)
        self.position += 1
        self.total.fill(self.position)
        self.sessions.decode.run_with_iobinding(self.binding)
        return self.logits


class StaticLoop(BufferLoop):
    """TensorScatter at a position."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        super().__init__(sessions, manifest, rows)
        self.place = np.zeros((), dtype=np.int64)
        self.binding.bind_cpu_input("position", self.place)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        self.place.fill(self.position)
        self.position += 1
        self.sessions.decode.run_with_iobinding(self.binding)
        return self.logits


class WholeLoop:
    """A masked model: all positions at every step, nothing to remember but the classes and a text's features."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.session = sessions.decode
        self.feeds: dict[str, NDArray[Any]] = {}

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Take the classes (R,), and features (R, P, C) where the model has a text."""
        self.feeds = {"labels": labels}
        if features is not None:
            self.feeds["features"] = np.ascontiguousarray(features)
        return None

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, T, O) of tokens (R, T)."""
        return self.session.run(["logits"], {"tokens": tokens, **self.feeds})[0]


class RepeatingLoop:
    """A causal graph without a cache: every step reads all tokens up to here again."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.session, self.shape = sessions.decode, manifest.shape
        self.tokens = np.zeros((rows, 0), dtype=np.int64)
        self.feeds: dict[str, NDArray[Any]] = {}

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these classes (R,)."""
        self.tokens = np.zeros((len(labels), 0), dtype=np.int64)
        self.feeds = {"labels": labels} if self.shape.labelled else {}
        return self.step(labels[:, None] + self.shape.first_class)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, 1, O) behind the next tokens (R, 1)."""
        self.tokens = np.concatenate([self.tokens, tokens], axis=1)
        return self.session.run(["logits"], {"tokens": self.tokens, **self.feeds})[0][:, -1:]


def make_loop(sessions: Sessions, manifest: Manifest, rows: int) -> Runner:
    """The loop that the manifest's graph wants."""
    if manifest.cache == "none":
        kind = WholeLoop if manifest.shape.order == "masked" else RepeatingLoop
        return kind(sessions, manifest, rows)
    if manifest.shape.order == "next-scale":
        return ScaleLoop(sessions, manifest, rows)
    if manifest.shape.text:
        return TextLoop(sessions, manifest, rows)
    loops = {"growing": GrowingLoop, "shared": SharedLoop, "static": StaticLoop}
    return loops[manifest.cache](sessions, manifest, rows)


class Parts:
    """Any number of rows with a graph of a fixed batch: a loop for each part, the last part filled up."""

    def __init__(self, sessions: Sessions, manifest: Manifest, rows: int) -> None:
        self.rows, self.size = rows, manifest.fixed_batch
        count = -(-rows // self.size)
        self.loops = [make_loop(sessions, manifest, self.size) for _ in range(count)]

    def begin(
        self, labels: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token, unless the model is masked."""
        texts = [None] * len(self.loops) if features is None else self.split(features)
        parts = [
            loop.begin(*given)
            for loop, given in zip(self.loops, zip(self.split(labels), texts, strict=True), strict=True)
        ]
        made = [part for part in parts if part is not None]
        return np.concatenate(made)[: self.rows] if made else None

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of what comes next."""
        parts = [loop.step(part) for loop, part in zip(self.loops, self.split(tokens), strict=True)]
        return np.concatenate(parts)[: self.rows]

    def split(self, rows: NDArray[Any]) -> list[NDArray[Any]]:
        """The rows for each loop."""
        return np.split(filled_up(rows, self.size), len(self.loops))


def filled_up(rows: NDArray[Any], multiple: int) -> NDArray[Any]:
    """The rows and copies of the last one, up to a multiple."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % multiple, axis=0)])
