"""TensorRT: open the plans of an engine where this machine can run them, and say in one line why it cannot.

Letters: R rows, T tokens of a picture, H x W pixels.

A plan belongs to one version of its builder, and to the GPUs that it was built for. The manifest says both, so that a
plan is not loaded where it cannot run.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from collections.abc import Iterator
from math import prod
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .built import Build
from .engine_files import PLANS
from .errors import RunnerMissingError, first_line
from .manifest import Manifest
from .plan import Call, Gpu, Library, Plan
from .plan_loop import LATENTS, TOKENS, PlanLoop, in_parts

OLDEST = 11  # the first whose networks are always strongly typed; TensorScatter came with 10.15
INSTALL = "on a machine with an NVIDIA GPU: pip install 'tensorrt>=11' 'polygraphy>=0.53.6'"
INSTALL_RTX = "pip install tensorrt-rtx-cu13=={version}, on a machine with an NVIDIA GPU"
CLASSIC_ALONE = ("9.0", "10.0", "10.3")  # capabilities of H100, B200 and B300, which TensorRT for RTX does not know
NEEDED = ("begin", "scales")  # graphs without which a decode plan cannot draw, where the engine has them


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


def require_rtx(version: str = "") -> Any:
    """The module tensorrt_rtx, able to run plans that this version built.

    Raises:
        TensorRTMissingError: it is not installed, has no library, is of another version, or there is no CUDA device.
    """
    install = INSTALL_RTX.format(version=version or "1.7.1.116")
    try:
        import tensorrt_rtx
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt_rtx":
            raise TensorRTMissingError(f"TensorRT for RTX is not installed; {install}") from error
        raise TensorRTMissingError(
            f"TensorRT for RTX is installed, but its library does not load ({first_line(error)}); {install}"
        ) from error
    found = getattr(tensorrt_rtx, "__version__", "of unknown version")
    if version and found != version:
        raise TensorRTMissingError(
            f"the plans are of TensorRT for RTX {version}, and {found} is installed, which does not load them; build "
            f"them again, or {install}"
        )
    if not cuda_devices():
        raise TensorRTMissingError(
            f"TensorRT for RTX {found} is installed, but no CUDA device is visible to its driver"
        )
    return tensorrt_rtx


def require_for(build: Build | None) -> Library:
    """The library that runs what was built so; None: by the classic TensorRT, of what version nobody recorded.

    Raises:
        TensorRTMissingError: it is not here, or of another version.
    """
    if build is not None and build.builder == "tensorrt-rtx":
        trt = require_rtx(build.version)
        return Library.of(trt, f"TensorRT for RTX {trt.__version__}", compiles=True)
    trt = require(build=False)
    if build is not None and trt.__version__ != build.version:
        raise TensorRTMissingError(
            f"the plans are of TensorRT {build.version}, and {trt.__version__} is installed, which does not load them; "
            f"build them again"
        )
    return Library.of(trt, f"TensorRT {trt.__version__}", compiles=False)


def check_device(build: Build | None, gpu: Gpu) -> None:
    """Refuse a device that the plans were not built for.

    Raises:
        TensorRTMissingError: says for what they were.
    """
    if build is None:
        return
    found = f"{gpu.name} has {gpu.capability}"
    if build.capabilities and gpu.capability not in build.capabilities:
        cure = f"build them again with  compute_capability: [{gpu.capability}]"
        if gpu.capability in CLASSIC_ALONE:
            cure = "TensorRT for RTX has none for it; build them there with  builder: tensorrt"
        raise TensorRTMissingError(f"the plans are for {build.made_for}, and {found}; {cure}")
    if build.device and build.device != gpu.name:
        raise TensorRTMissingError(f"the plans are for {build.device}, and this is {gpu.name}; build them again here")


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


class TensorRTPlans:
    """The plans of an engine on the device; they make loops that draw through them, one at a time under `lock`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Load the plans, that of the decode graph at `path` and the others beside it.

        Raises:
            TensorRTMissingError: the library, PyTorch with CUDA, or a device that they were built for is missing; or
            one of the graphs that every drawing needs has no plan.
            EngineError: a plan cannot be loaded though the manifest says that it can.
        """
        build, files = manifest.build, manifest.files
        for graph in NEEDED:
            if graph in files and PLANS[graph] not in files:
                reason = build.not_built.get(graph, "") if build is not None else ""
                raise TensorRTMissingError(f"{files[graph]} has no plan" + (f": {reason}" if reason else ""))
        library = require_for(build)
        self.gpu = Gpu(torch_with_cuda())
        check_device(build, self.gpu)
        self.manifest = manifest
        self.running = RLock()  # a drawing may draw again from what it tells after each step
        self.stream = self.gpu.stream()
        opened = {
            graph: Plan(library, self.gpu, path.with_name(files[role]))
            for graph, role in PLANS.items()
            if role in files
        }
        self.decode = opened.pop("decode")
        self.begin = opened.pop("begin", None)
        self.others = opened
        self.calls: dict[str, Call] = {}  # of the graphs that run once, one after the other

    @property
    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held by a drawing; what it starts on the device goes to the stream of the plans."""
        return self.held()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The same."""
        with self.running, self.gpu.on(self.stream):
            yield

    def loop(self, rows: int) -> PlanLoop:
        """Decoding for this many rows."""
        made = PlanLoop(self, rows)
        self.save_kernels()
        return made

    @property
    def numbers_of_a_row(self) -> int:
        """How many numbers are computed of a row before its steps."""
        begin = self.begin
        return 0 if begin is None else sum(prod(begin.shapes[name][1:]) for name in begin.outputs)

    def latents(self, tokens: Any) -> Any:
        """What a next-scale model reads (R, T - 1, Z) of tokens (R, T), on the device."""
        return self.results("scales", {TOKENS: tokens.to(self.gpu.device)})[LATENTS]

    def runs(self, graph: str) -> bool:
        """Whether one of the graphs that run once has a plan."""
        return graph in self.others

    def sizes(self, graph: str, name: str) -> tuple[int, ...]:
        """The shape of an input or output of such a graph; one that a call decides is -1."""
        return self.others[graph].shapes[name]

    def run(self, graph: str, taken: str, given: str, array: NDArray[Any]) -> NDArray[Any]:
        """An output (R, ...) of one of these graphs for an input (R, ...), from and to the host."""
        with self.lock:
            device = self.gpu.torch.from_numpy(np.ascontiguousarray(array)).to(self.gpu.device)
            made: NDArray[Any] = self.results(graph, {taken: device})[given].to("cpu", copy=True).numpy()
        return made

    def results(self, graph: str, given: dict[str, Any]) -> dict[str, Any]:
        """All outputs (R, ...) of one of these graphs for inputs (R, ...), in parts that its plan takes."""
        plan = self.others[graph]
        call = self.calls.get(graph)
        if call is None:
            call = self.calls[graph] = Call(plan, self.stream)
        (name,) = plan.inputs
        made: dict[str, list[Any]] = {each: [] for each in plan.outputs}
        for part, real in in_parts(given[name], *plan.rows(name)):
            bound = call.bind({name: part})
            call.run()
            for each in plan.outputs:
                made[each].append(bound[each][:real])
        plan.save_kernels()
        return {each: self.gpu.torch.cat(tensors) for each, tensors in made.items()}

    def save_kernels(self) -> None:
        """Keep what was compiled of all plans."""
        for plan in (self.decode, self.begin, *self.others.values()):
            if plan is not None:
                plan.save_kernels()
