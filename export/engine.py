"""The runtime: load an engine folder and draw. NumPy and ONNX Runtime only; PyTorch is not needed to deploy.

Letters: N pictures, R rows of a step (N, or 2N under guidance), T tokens of a picture, V vocabulary, K key/value heads,
L length of a cache, d head width.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.manifest import Cache, EngineError, Manifest
from export.sampling import Sampler, draw

if TYPE_CHECKING:
    from export.tensorrt import Plan, PlanLoop

__all__ = ["Engine", "EngineError", "Event", "Manifest", "Sampler", "low_precision_share"]

CPU = ["CPUExecutionProvider"]
SCORE_ROWS = 128  # rows scored at once; bounds the memory of a prefill
LOW_PRECISION = {
    "DynamicQuantizeMatMul",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearMatMul",
}
FULL_PRECISION = {"FusedGemm", "FusedMatMul", "Gemm", "MatMul", "TransposeMatMul"}


class Engine:
    """A loaded engine folder; one is not to be used from several threads at once."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.folder, self.manifest, self.threads = folder, manifest, threads
        self.session = self._open("decode")
        self.image_decoder = self._open("image_decoder")
        self.plan = self._open_plan()
        self.loops: dict[int, Loop | Parts | PlanLoop] = {}

    @classmethod
    def load(cls, path: str | Path, threads: int = 0) -> Engine:
        """Open an engine folder on `threads` CPU threads (0: ONNX Runtime's choice), every file checked by its hash.

        Raises:
            EngineError: a file is missing, damaged, or not something ONNX Runtime can run; the file is named.
        """
        folder = Path(path)
        return cls(folder, Manifest.load(folder), threads)

    def _open(self, file: str, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
        path = self.folder / self.manifest.files[file]
        options = options or onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        # Threads of an engine that just finished would go on spinning on the cores that the next one needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.manifest.weight_only:
            # ONNX Runtime would turn weights with a DequantizeLinear into a kernel that rounds activations to int8.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=CPU)
        except Exception as error:
            raise EngineError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from error

    def _open_plan(self) -> Plan | None:
        """What TensorRT built, where this machine can run it; elsewhere ONNX Runtime runs the same graph."""
        if "plan" not in self.manifest.files:
            return None
        from export.tensorrt import Plan, TensorRTMissingError

        try:
            return Plan(self.folder / self.manifest.files["plan"], self.manifest)
        except TensorRTMissingError:
            return None

    @property
    def runtime(self) -> str:
        """What runs the decode graph."""
        return "onnxruntime" if self.plan is None else "tensorrt"

    @property
    def runs_as_deployed(self) -> bool:
        """Whether that is the runtime the engine was exported for, so that its speed means something."""
        return self.manifest.target != "tensorrt" or self.plan is not None

    @property
    def sampler(self) -> Sampler:
        """How this engine draws unless told otherwise."""
        return self.manifest.sampler

    @property
    def vocabulary(self) -> int:
        """Image tokens."""
        return self.manifest.vocabulary

    @property
    def classes(self) -> int:
        """Classes, without the null class."""
        return self.manifest.classes

    @property
    def length(self) -> int:
        """Tokens of a picture."""
        return self.manifest.length

    def generate(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        seed: int = 0,
        cfg_scale: float | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> NDArray[np.uint8]:
        """New pictures (N, H, W, C) of these classes; what is not given is the engine's own sampler's.

        Raises:
            ValueError: a label is not a class, or a setting is out of range.
        """
        sampler = self.sampler.changed(cfg_scale=cfg_scale, top_k=top_k, temperature=temperature, top_p=top_p)
        return self.decode_images(self.draw_tokens(np.asarray(labels, dtype=np.int64), seed, sampler))

    def draw_tokens(
        self, labels: NDArray[np.int64], seed: int = 0, sampler: Sampler | None = None
    ) -> NDArray[np.int64]:
        """Tokens (N, T) of new pictures of these classes (N,)."""
        sampler = sampler or self.sampler
        loop = self._loop(len(labels) * (2 if sampler.guided else 1))
        loop.restart()
        return draw(
            loop.step,
            labels,
            vocabulary=self.vocabulary,
            classes=self.classes,
            length=self.length,
            sampler=sampler,
            seed=seed,
        )

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) of tokens (N, T)."""
        return self.image_decoder.run(None, {"tokens": tokens})[0]

    def score(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V) of inputs (N, T), all tokens in one call (a plan takes one a call)."""
        if self.plan is not None:
            return self.score_stepwise(inputs)
        size = self.manifest.fixed_batch or SCORE_ROWS
        padded = filled_up(inputs, self.manifest.fixed_batch or 1)
        chunks = [padded[start : start + size] for start in range(0, len(padded), size)]
        logits = [self.session.run(["logits"], self._prefill(chunk))[0] for chunk in chunks]
        return np.concatenate(logits)[: len(inputs)]

    def score_stepwise(self, inputs: NDArray[np.int64]) -> NDArray[np.float32]:
        """The same logits (N, T, V) through the KV cache, token by token."""
        loop = self._loop(len(inputs))
        loop.restart()
        return np.stack([loop.step(inputs[:, [position]]).copy() for position in range(inputs.shape[1])], axis=1)

    def profile(self, labels: Sequence[int] | NDArray[np.int64]) -> list[Event]:
        """Time of every operator while drawing these classes once, from ONNX Runtime's own profiler."""
        with tempfile.TemporaryDirectory() as room:
            options = onnxruntime.SessionOptions()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(room) / "profile")
            watched = Engine.__new__(Engine)
            watched.folder, watched.manifest, watched.threads, watched.loops = (
                self.folder,
                self.manifest,
                self.threads,
                {},
            )
            watched.session, watched.image_decoder = self._open("decode", options), self.image_decoder
            watched.plan = None
            watched.draw_tokens(np.asarray(labels, dtype=np.int64))
            records = json.loads(Path(watched.session.end_profiling()).read_text())
        return [
            Event(record["args"]["op_name"], record["name"].removesuffix("_kernel_time"), record["dur"])
            for record in records
            if record.get("cat") == "Node" and record["name"].endswith("_kernel_time")
        ]

    def _loop(self, rows: int) -> Loop | Parts | PlanLoop:
        if rows not in self.loops:
            if self.plan is not None:
                self.loops[rows] = self.plan.loop(rows)
            elif self.manifest.fixed_batch:
                self.loops[rows] = Parts(self.session, self.manifest, rows)
            else:
                self.loops[rows] = LOOPS[self.manifest.cache](self.session, self.manifest, rows)
        return self.loops[rows]

    def _prefill(self, inputs: NDArray[np.int64]) -> dict[str, Any]:
        """Feeds of one call for all tokens (N, T) behind an empty cache."""
        count, length = inputs.shape
        feeds: dict[str, Any] = {"tokens": np.ascontiguousarray(inputs)}
        cached = 0 if self.manifest.cache == "growing" else self.length
        for layer, heads in enumerate(self.manifest.kv_heads):
            for part in ("key", "value"):
                shape = (count, heads, cached, self.manifest.head_width)
                feeds[f"past.{layer}.{part}"] = np.zeros(shape, dtype=np.float32)
        if self.manifest.cache == "shared":
            feeds["seqlens_k"] = np.full(count, length - 1, dtype=np.int32)
            feeds["total_sequence_length"] = np.array(length, dtype=np.int32)
        elif self.manifest.cache == "static":
            feeds["position"] = np.array(0, dtype=np.int64)
        return feeds


class Loop:
    """Decoding for a fixed number of rows: buffers are made and bound once, a step only writes numbers into them."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int) -> None:
        self.session, self.manifest, self.rows = session, manifest, rows
        self.binding = session.io_binding()
        self.tokens = np.zeros((rows, 1), dtype=np.int64)
        self.logits = np.zeros((rows, 1, manifest.vocabulary), dtype=np.float32)
        self.result = self.logits[:, 0]
        self.binding.bind_cpu_input("tokens", self.tokens)
        self._bind_output("logits", self.logits)
        self.names = [f"{layer}.{part}" for layer in range(len(manifest.kv_heads)) for part in ("key", "value")]
        self.position = 0

    def restart(self) -> None:
        """Forget the cache."""
        self.position = 0

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, V) behind the next tokens (R, 1); the array is overwritten by the next step."""
        raise NotImplementedError

    def _bind_output(self, name: str, array: NDArray[Any]) -> None:
        self.binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def _shape(self, name: str, length: int) -> tuple[int, int, int, int]:
        heads = self.manifest.kv_heads[int(name.split(".")[0])]
        return (self.rows, heads, length, self.manifest.head_width)


class GrowingLoop(Loop):
    """Past in, longer present out: the outputs of a step are bound as the next one's inputs."""

    def restart(self) -> None:
        """Forget the cache."""
        super().restart()
        for name in self.names:
            empty = np.zeros(self._shape(name, 0), dtype=np.float32)
            self.binding.bind_ortvalue_input(f"past.{name}", onnxruntime.OrtValue.ortvalue_from_numpy(empty))

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, V) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        for name in self.names:  # a bound output keeps its last buffer, so each step asks for a new one
            self.binding.bind_output(f"present.{name}", "cpu")
        self.session.run_with_iobinding(self.binding)
        for name, value in zip(self.names, self.binding.get_outputs()[1:], strict=True):
            self.binding.bind_ortvalue_input(f"past.{name}", value)
        return self.result


class BufferLoop(Loop):
    """Caches of full length that a step updates in place: each is bound once as past and as present."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int) -> None:
        super().__init__(session, manifest, rows)
        self.caches = {}
        for name in self.names:
            cache = np.zeros(self._shape(name, manifest.length), dtype=np.float32)
            self.caches[name] = cache
            self.binding.bind_cpu_input(f"past.{name}", cache)
            self._bind_output(f"present.{name}", cache)


class SharedLoop(BufferLoop):
    """GroupQueryAttention in place; the lengths tell it how much of the cache is filled."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int) -> None:
        super().__init__(session, manifest, rows)
        self.seqlens_k = np.zeros(rows, dtype=np.int32)
        self.total = np.zeros((), dtype=np.int32)
        self.binding.bind_cpu_input("seqlens_k", self.seqlens_k)
        self.binding.bind_cpu_input("total_sequence_length", self.total)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, V) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        self.seqlens_k.fill(self.position)
        self.position += 1
        self.total.fill(self.position)
        self.session.run_with_iobinding(self.binding)
        return self.result


class StaticLoop(BufferLoop):
    """TensorScatter at a position."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int) -> None:
        super().__init__(session, manifest, rows)
        self.place = np.zeros((), dtype=np.int64)
        self.binding.bind_cpu_input("position", self.place)

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, V) behind the next tokens (R, 1)."""
        self.tokens[:] = tokens
        self.place.fill(self.position)
        self.position += 1
        self.session.run_with_iobinding(self.binding)
        return self.result


LOOPS: dict[Cache, type[Loop]] = {"growing": GrowingLoop, "shared": SharedLoop, "static": StaticLoop}


class Parts:
    """Decoding any number of rows with a graph of a fixed batch: a loop for each part, the last part filled up."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest, rows: int) -> None:
        self.rows, self.size = rows, manifest.fixed_batch
        count = -(-rows // self.size)
        self.loops = [LOOPS[manifest.cache](session, manifest, self.size) for _ in range(count)]

    def restart(self) -> None:
        """Forget the caches."""
        for loop in self.loops:
            loop.restart()

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (R, V) behind the next tokens (R, 1)."""
        parts = np.split(filled_up(tokens, self.size), len(self.loops))
        return np.concatenate([loop.step(part) for loop, part in zip(self.loops, parts, strict=True)])[: self.rows]


def filled_up(rows: NDArray[np.int64], multiple: int) -> NDArray[np.int64]:
    """The rows and copies of the last one, up to a multiple."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % multiple, axis=0)])


@dataclass(frozen=True)
class Event:
    """One run of one operator."""

    op: str
    node: str
    microseconds: float


def low_precision_share(events: Sequence[Event]) -> float:
    """Share of the matrix products' time that ran in kernels for low-precision weights or activations.

    The operators are those that ONNX Runtime really ran, after its own optimisation: a Q/DQ pair that it did not
    fuse, or weights that it dequantized at load, count as full precision.
    """
    low = sum(event.microseconds for event in events if event.op in LOW_PRECISION)
    full = sum(event.microseconds for event in events if event.op in FULL_PRECISION)
    return low / (low + full) if low + full else 0.0
