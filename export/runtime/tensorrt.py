"""TensorRT: decode with the plan of a decode graph.

Letters: R rows of a step, V vocabulary, K key/value heads, L length of the cache, d head width.

TensorRT 11 networks are strongly typed: precision lies in the ONNX file (Q/DQ, casts), never in a builder flag. A plan
belongs to one TensorRT version and one kind of GPU; two builds of one graph need not be byte-identical, because the
builder picks kernels by timing them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .drawing import opening
from .errors import EngineError, RunnerMissingError, first_line
from .manifest import Manifest
from .signature import POSITIONS, DecodeSignature

OLDEST = 11  # the first whose networks are always strongly typed; TensorScatter came with 10.15
INSTALL = "on a machine with an NVIDIA GPU: pip install 'tensorrt>=11' 'polygraphy>=0.53.6'"


class TensorRTMissingError(RunnerMissingError):
    """TensorRT cannot be used here; one line says what is missing and what would help."""


def require(build: bool = True) -> Any:
    """The module tensorrt, able to build (or, without `build`, to run plans).

    Raises:
        TensorRTMissingError: it is not installed, too old, or has no library, no CUDA device, or no builder here.
    """
    try:
        import tensorrt
    except ImportError as error:
        found = isinstance(error, ModuleNotFoundError) and error.name != "tensorrt_libs"
        if found and importlib.util.find_spec("tensorrt_bindings") is None:
            raise TensorRTMissingError(f"TensorRT is not installed; {INSTALL}") from error
        raise TensorRTMissingError(
            f"TensorRT's Python bindings are installed, but its library does not load ({first_line(error)}); {INSTALL}"
        ) from error
    version = getattr(tensorrt, "__version__", "of unknown version")
    if not version.split(".")[0].isdigit() or int(version.split(".")[0]) < OLDEST:
        raise TensorRTMissingError(f"TensorRT {version} is installed, but {OLDEST} or newer is needed; {INSTALL}")
    if not cuda_devices():
        raise TensorRTMissingError(f"TensorRT {version} is installed, but no CUDA device is visible to its driver")
    if build:
        try:
            builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
        except (AttributeError, RuntimeError, TypeError) as error:
            raise TensorRTMissingError(
                f"TensorRT {version} is installed, but has no builder here ({first_line(error)}); the lean runtime "
                f"only runs plans, the package tensorrt builds them too"
            ) from error
        del builder
        if importlib.util.find_spec("polygraphy") is None:
            raise TensorRTMissingError(f"TensorRT {version} is installed, but Polygraphy is not; {INSTALL}")
    return tensorrt


def cuda_devices() -> int:
    """CUDA devices that the driver shows; 0 without a driver."""
    count = ctypes.c_int(0)
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError, AttributeError):
            driver = ctypes.CDLL(name)
            if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
                return count.value
    return 0


class TensorRTPlan:
    """A plan on the device; it makes loops that decode through it, one at a time under `lock`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Load a plan.

        Raises:
            TensorRTMissingError: TensorRT, PyTorch with CUDA, or a device is missing.
            EngineError: the plan is for another TensorRT version or another kind of GPU.
        """
        trt = require(build=False)
        self.path, self.manifest, self.trt, self.torch = path, manifest, trt, torch_with_cuda()
        self.lock = RLock()  # a drawing may draw again from what it tells after each step
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise EngineError(
                f"{path}: TensorRT {trt.__version__} cannot load it on {self.torch.cuda.get_device_name()}; a plan is "
                f"for one version and one kind of GPU, so build it again here"
            )
        smallest, _, largest = self.engine.get_tensor_profile_shape("tokens", 0)
        self.smallest, self.largest = int(smallest[0]), int(largest[0])

    def loop(self, rows: int) -> PlanLoop:
        """Decoding for this many rows."""
        return PlanLoop(self, rows)


def torch_with_cuda() -> Any:
    """PyTorch, whose tensors are the buffers on the device.

    Raises:
        TensorRTMissingError: it is not installed or built without CUDA.
    """
    try:
        import torch
    except ImportError as error:
        raise TensorRTMissingError("running a plan needs PyTorch for its buffers; pip install torch") from error
    if not torch.cuda.is_available():
        raise TensorRTMissingError(f"running a plan needs PyTorch with CUDA; PyTorch {torch.__version__} has none here")
    return torch


class PlanLoop:
    """Decoding for any number of rows, in parts of at most as many as the plan takes."""

    def __init__(self, plan: TensorRTPlan, rows: int) -> None:
        starts = range(0, rows, plan.largest)
        self.parts = [PlanPart(plan, slice(start, min(start + plan.largest, rows))) for start in starts]
        self.shape = plan.manifest.shape
        self.masked = plan.manifest.cache == "none"
        signature = DecodeSignature.of(plan.manifest)
        self.result = signature.outputs["logits"].zeros(batch=rows, tokens=signature.tokens_of_a_step)  # (R, S, V)
        self.position = 0

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None = None,
        prompt: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float32] | None:
        """Logits (R, 1, O) of the first token of these classes (R,) behind a prompt; none of a masked model."""
        self.position = 0
        for part in self.parts:
            part.take(labels[part.rows])
        if self.masked:
            return None
        tokens = opening(self.shape, labels, prompt)
        for column in np.split(tokens, tokens.shape[1], axis=1):
            last = self.step(column)
        return last

    def step(self, tokens: NDArray[np.int64], positions: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Logits of what comes next, as `drawing.Runner` says; the array is overwritten by the next step."""
        for part in self.parts:
            part.enqueue(tokens[part.rows], self.position)
        self.position += 1
        for part in self.parts:
            self.result[part.rows] = part.logits()
        return self.result if positions is None else self.result[:, positions]


class PlanPart:
    """Buffers of some rows on the device and a context bound to them; past and present lie at one address."""

    def __init__(self, plan: TensorRTPlan, rows: slice) -> None:
        torch, signature = plan.torch, DecodeSignature.of(plan.manifest)
        self.path, self.torch, self.rows = plan.path, torch, rows
        self.context = plan.engine.create_execution_context()
        self.stream = torch.cuda.Stream()
        count = max(rows.stop - rows.start, plan.smallest)  # rows beyond those asked for are computed and dropped
        with torch.cuda.stream(self.stream):
            self.buffers = {
                name: torch.zeros(
                    port.bound(batch=count, tokens=signature.tokens_of_a_step),
                    dtype=getattr(torch, port.kind),
                    device="cuda" if port.sizes else place(plan, name),
                )
                for name, port in {**signature.inputs, "logits": signature.outputs["logits"]}.items()
                if name != POSITIONS  # a plan makes the logits of all positions
            }
        for name, buffer in self.buffers.items():
            self.bind(name, buffer)
            if name.startswith("past."):
                self.bind(name.replace("past.", "present."), buffer)
        missing = self.context.infer_shapes()
        if missing:
            raise EngineError(f"{self.path}: the plan has inputs that nothing feeds ({', '.join(missing)})")

    def bind(self, name: str, buffer: Any) -> None:
        """Give a tensor of the plan its address, and an input its shape."""
        is_input = not name.startswith(("logits", "present."))
        if is_input and buffer.dim() and not self.context.set_input_shape(name, tuple(buffer.shape)):
            raise EngineError(f"{self.path}: the plan does not take {name} of shape {tuple(buffer.shape)}")
        if not self.context.set_tensor_address(name, buffer.data_ptr()):
            raise EngineError(f"{self.path}: the plan has no tensor {name}; it was built from another graph")

    def take(self, labels: NDArray[np.int64]) -> None:
        """The classes (R,), where the graph reads them."""
        if "labels" in self.buffers:
            with self.torch.cuda.stream(self.stream):
                self.buffers["labels"][: len(labels)].copy_(self.torch.from_numpy(np.ascontiguousarray(labels)))

    def enqueue(self, tokens: NDArray[np.int64], position: int) -> None:
        """Start a step for tokens (R, S) at a position."""
        with self.torch.cuda.stream(self.stream):
            self.buffers["tokens"][: len(tokens)].copy_(self.torch.from_numpy(np.ascontiguousarray(tokens)))
            if "position" in self.buffers:
                self.buffers["position"].fill_(position)
            if not self.context.execute_async_v3(self.stream.cuda_stream):
                raise EngineError(f"{self.path}: TensorRT could not run a step at position {position}")

    def logits(self) -> NDArray[np.float32]:
        """Logits (R, S, O) of the step that was started, as soon as it is done."""
        with self.torch.cuda.stream(self.stream):
            found = self.buffers["logits"][: self.rows.stop - self.rows.start].cpu()
        logits: NDArray[np.float32] = found.numpy()
        return logits


def place(plan: TensorRTPlan, name: str) -> str:
    """Where TensorRT wants a tensor: what it computes shapes from lies on the host."""
    on_host = plan.engine.get_tensor_location(name) == plan.trt.TensorLocation.HOST
    return "cpu" if on_host else "cuda"
