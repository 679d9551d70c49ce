"""One plan of TensorRT on a device: what it takes and gives, and calls of it on tensors of PyTorch.

Letters: R rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import EngineError

KERNELS_SUFFIX = ".kernels"  # of the file beside a plan that keeps the kernels which were compiled of it
VARIES = -1  # a size that a call decides
# Names of types, which TensorRT and PyTorch call differently.
KINDS = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
Tensors = Mapping[str, Any]
Sizes = tuple[int, ...]


class Gpu:
    """The device of PyTorch that plans run on."""

    device = "cuda"

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    @property
    def name(self) -> str:
        """What the vendor calls it."""
        return str(self.torch.cuda.get_device_name())

    @property
    def capability(self) -> str:
        """Its compute capability, such as ``8.9``."""
        return ".".join(map(str, self.torch.cuda.get_device_capability()))

    def stream(self) -> Any:
        """A new stream."""
        return self.torch.cuda.Stream()

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """What is started inside is started on the stream."""
        on: contextlib.AbstractContextManager[Any] = self.torch.cuda.stream(stream)
        return on

    def captured(self, stream: Any, start: Callable[[], None]) -> Callable[[], None]:
        """What runs again what `start` starts on the stream, as one graph.

        Raises:
            RuntimeError: it cannot be captured.
        """
        graph = self.torch.cuda.CUDAGraph()
        with self.torch.cuda.graph(graph, stream=stream):
            start()
        replay: Callable[[], None] = graph.replay
        return replay


@dataclass(frozen=True)
class Library:
    """The runtime of a builder: its module, its name with the version, the runtime object, what it said last.

    `compiles` says that kernels are compiled on the device, and that it captures graphs by itself.
    """

    trt: Any
    name: str
    compiles: bool
    runtime: Any
    said: Any

    @classmethod
    def of(cls, trt: Any, name: str, *, compiles: bool) -> Library:
        """That of a module."""
        said = logger(trt)
        return cls(trt, name, compiles, trt.Runtime(said), said)


def logger(trt: Any) -> Any:
    """A logger that keeps errors in `errors` instead of printing them. Of a process only the first is ever told."""

    class Said(trt.ILogger):  # type: ignore[misc]
        """Keeps errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            """Called by the library."""
            if severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors[:] = [*self.errors[-9:], " ".join(text.split())]

    return Said()


class Kernels:
    """What TensorRT for RTX compiled of a plan on this machine, kept in a file beside it.

    The library itself refuses what is of another version, device or driver. A file that cannot be read or written costs
    time, never a picture.
    """

    def __init__(self, settings: Any, path: Path) -> None:
        self.path, self.cache, self.kept = path, settings.create_runtime_cache(), b""
        with contextlib.suppress(OSError):
            saved = path.read_bytes()
            if saved and self.cache.deserialize(saved):
                self.kept = saved

    def save(self) -> None:
        """Write the file if anything was compiled since, whole or not at all."""
        made = bytes(self.cache.serialize())
        if made == self.kept:
            return
        self.kept = made
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            draft.write_bytes(made)
            os.replace(draft, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink()


class Plan:
    """A plan that was loaded; `shapes` of its inputs and outputs are `VARIES` where a call decides the size."""

    def __init__(self, library: Library, gpu: Gpu, path: Path) -> None:
        """Load a plan.

        Raises:
            EngineError: it is not a plan that this library can load on this device.
        """
        self.library, self.gpu, self.path = library, gpu, path
        self.engine = library.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            reason = f" ({library.said.errors[-1]})" if library.said.errors else ""
            raise EngineError(f"{path}: {library.name} cannot load it on {gpu.name}{reason}; build it again here")
        trt, engine = library.trt, self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        taken = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if taken[name]]
        self.outputs = [name for name in names if not taken[name]]
        self.shapes: dict[str, Sizes] = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self.kinds = {name: getattr(gpu.torch, KINDS[engine.get_tensor_dtype(name).name]) for name in names}
        host = trt.TensorLocation.HOST
        self.hosted = {name for name in names if engine.get_tensor_location(name) == host}  # has to lie on the host
        self.kernels = Kernels(engine.create_runtime_config(), beside(path)) if library.compiles else None

    def varies(self, name: str) -> bool:
        """Whether a call decides the shape of a tensor."""
        return VARIES in self.shapes[name]

    def rows(self, name: str) -> tuple[int, int]:
        """The fewest and most rows of an input that a call may have."""
        if self.shapes[name][0] != VARIES:
            return self.shapes[name][0], self.shapes[name][0]
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        return int(least[0]), int(most[0])

    def profile_of(self, shapes: Mapping[str, Sizes]) -> int | None:
        """The first profile that takes inputs of these shapes; None where there is none."""
        for profile in range(self.engine.num_optimization_profiles):
            if all(self.fits(name, profile, sizes) for name, sizes in shapes.items()):
                return profile
        return None

    def fits(self, name: str, profile: int, sizes: Sizes) -> bool:
        """Whether a profile takes an input of this shape."""
        least, _, most = (tuple(each) for each in self.engine.get_tensor_profile_shape(name, profile))
        return len(least) == len(sizes) and all(
            low <= size <= high for low, size, high in zip(least, sizes, most, strict=True)
        )

    def room(self, name: str, rows: int, *others: int) -> Any:
        """Zeros for a tensor of so many rows; `others` are its further sizes that a call decides, in their order."""
        wanted = iter((rows, *others))
        sizes = [next(wanted) if size == VARIES else size for size in self.shapes[name]]
        if sizes and self.shapes[name][0] != VARIES:
            sizes[0] = rows
        return self.gpu.torch.zeros(sizes, dtype=self.kinds[name], device=self.place(name))

    def place(self, name: str) -> str:
        """Where a tensor has to lie, as PyTorch calls it."""
        return "cpu" if name in self.hosted else self.gpu.device

    def context(self, *, repeated: bool) -> Any:
        """A new context, for calls that are `repeated` with the same tensors or for calls that are not.

        Raises:
            EngineError: there is no room for it on the device.
        """
        if self.kernels is None:
            context = self.engine.create_execution_context()
        else:
            graphs = self.library.trt.CudaGraphStrategy
            settings = self.engine.create_runtime_config()
            settings.set_runtime_cache(self.kernels.cache)
            settings.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if repeated else graphs.DISABLED
            context = self.engine.create_execution_context(settings)
        if context is None:
            reason = f" ({self.library.said.errors[-1]})" if self.library.said.errors else ""
            raise EngineError(f"{self.path}: {self.library.name} has no room to run it on {self.gpu.name}{reason}")
        return context

    def save_kernels(self) -> None:
        """Keep what was compiled since for the next process."""
        if self.kernels is not None:
            self.kernels.save()


class Call:
    """A context of a plan, bound to tensors; `repeated` ones run as one captured graph where nothing is on the host."""

    def __init__(self, plan: Plan, stream: Any, *, repeated: bool = False) -> None:
        self.plan, self.stream, self.profile = plan, stream, 0
        self.context = plan.context(repeated=repeated)
        self.captures = repeated and not plan.library.compiles
        self.replay: Callable[[], None] | None = None
        self.bound: Tensors = {}

    def bind(self, tensors: Tensors) -> Tensors:
        """Let the next calls read and write these tensors; what comes back has room for further outputs too.

        Raises:
            EngineError: the plan has other tensors, or does not take these shapes.
        """
        plan, context = self.plan, self.context
        if strangers := sorted(tensors.keys() - {*plan.inputs, *plan.outputs}):
            raise EngineError(f"{plan.path}: the plan has no tensor {strangers[0]}; it was built from another graph")
        if unfed := [name for name in plan.inputs if name not in tensors]:
            raise EngineError(f"{plan.path}: the plan has inputs that nothing feeds ({', '.join(unfed)})")
        shapes = {name: tuple(tensors[name].shape) for name in plan.inputs if plan.varies(name)}
        profile = plan.profile_of(shapes)
        if profile is None:
            said = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if not name.startswith("past."))
            raise EngineError(f"{plan.path}: the plan has no profile for {said}")
        if profile != self.profile:
            self.check(context.set_optimization_profile_async(profile, self.stream.cuda_stream), f"profile {profile}")
            self.profile = profile
        for name in plan.inputs:
            if name in shapes:
                self.check(context.set_input_shape(name, shapes[name]), f"{name} of shape {shapes[name]}")
            self.check(context.set_tensor_address(name, tensors[name].data_ptr()), name)
        if missing := context.infer_shapes():
            raise EngineError(f"{plan.path}: the plan has inputs that nothing feeds ({', '.join(missing)})")
        made = dict(tensors)
        for name in plan.outputs:
            if name not in made:
                sizes = tuple(context.get_tensor_shape(name))
                made[name] = plan.gpu.torch.zeros(sizes, dtype=plan.kinds[name], device=plan.place(name))
            self.check(context.set_tensor_address(name, made[name].data_ptr()), name)
        self.bound, self.replay = made, None  # the tensors live as long as their addresses are used
        return made

    def check(self, taken: bool, what: str) -> None:
        """Refuse what a context does not take."""
        if not taken:
            raise EngineError(f"{self.plan.path}: the plan does not take {what}{self.reason()}")

    def reason(self) -> str:
        """The last error that the library told, in brackets."""
        errors = self.plan.library.said.errors
        return f" ({errors[-1]})" if errors else ""

    def run(self) -> None:
        """Start one call on the stream.

        Raises:
            EngineError: it cannot be started.
        """
        if self.replay is not None:
            self.replay()
            return
        self.start()
        if self.captures and not self.plan.hosted:
            # TensorRT wants one plain call before it is captured, and another one after each change of shapes.
            try:
                self.replay = self.plan.gpu.captured(self.stream, self.start)
            except RuntimeError:
                self.captures = False

    def start(self) -> None:
        """Start one call that is not captured."""
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise EngineError(f"{self.plan.path}: {self.plan.library.name} could not run it{self.reason()}")


def beside(path: Path) -> Path:
    """Where the kernels of a plan are kept."""
    return path.with_name(path.name + KERNELS_SUFFIX)


def parts_of(rows: int, least: int, most: int) -> Iterator[slice]:
    """Rows in parts of at most `most`; the last one is filled up to `least`."""
    for start in range(0, rows, most):
        yield slice(start, start + max(least, min(most, rows - start)))
