"""A stand-in for TensorRT's runtime on the CPU: ONNX Runtime computes what a plan would, on the addresses it is given.

Every call is held against the real bindings of TensorRT for RTX where they are installed: a method that does not exist,
a number of arguments or a type that no signature has, or a property that cannot be set, fails the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from export.building.profiles import Profile, Rows, decode_sizes, other_sizes, profiles
from export.graph.onnx_model import FILES, OnnxModel
from export.runtime.built import Build, BuiltPart
from export.runtime.plan import Gpu

VERSION, CAPABILITY, DEVICE = "1.7.1.116", "8.9", "stand-in"
ROWS = Rows(1, 2, 3)
TYPES = {
    "tensor(int64)": ("INT64", np.int64),
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(uint8)": ("UINT8", np.uint8),
}
PLAIN = {"str": str, "int": int, "tuple": tuple, "list": list, "bool": bool}
# The real module, before a test puts another in its place; None where it is not installed.
BINDINGS: Any = importlib.import_module("tensorrt_rtx") if importlib.util.find_spec("tensorrt_rtx") else None


class Checked:
    """An object that may do what a class of the bindings can do, called as that class says."""

    def __init__(self, kind: str, does: Any) -> None:
        real = getattr(BINDINGS, kind, None)
        self.__dict__.update(kind=kind, does=does, real=real)

    def __getattr__(self, name: str) -> Any:
        self.exists(name)
        value = getattr(self.does, name)
        return self.checked(name, value) if callable(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self.exists(name)
        if self.real is not None:
            (said, *_) = signatures(name, "set" + (getattr(self.real, name).fset.__doc__ or ""))
            assert suits(value, said[-1]), f"{self.kind}.{name} is set to {value!r}; it takes {said[-1]}"
        setattr(self.does, name, value)

    def __bytes__(self) -> bytes:
        return bytes(self.does)

    def exists(self, name: str) -> None:
        """Refuse what the class does not have."""
        assert self.real is None or hasattr(self.real, name), f"TensorRT's {self.kind} has no {name}"

    def checked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, with arguments that one of the signatures takes."""

        def checking(*given: Any) -> Any:
            known = list(signatures(name, getattr(self.real, name).__doc__ or "")) if self.real is not None else []
            assert self.real is None or any(takes(each, given) for each in known), f"{self.kind}.{name}{given}: {known}"
            return call(*given)

        return checking


def signatures(name: str, text: str) -> Iterator[list[str]]:
    """The types of the arguments in a docstring of pybind11, once for each overload; `= default` stays behind them."""
    for line in text.splitlines():
        found = re.match(rf"(?:\d+\. )?(?:{name}|set)\((?:self|arg0): [\w.]+(?:, )?(.*)\) -> ", line)
        if found:
            yield [each.split(": ", 1)[1] for each in re.split(r", (?=\w+: )", found[1]) if each]


def takes(types: Sequence[str], given: Sequence[Any]) -> bool:
    """Whether a signature takes these arguments."""
    needed = [each for each in types if " = " not in each]
    return len(needed) <= len(given) <= len(types) and all(
        suits(value, said) for value, said in zip(given, types, strict=False)
    )


def suits(value: Any, said: str) -> bool:
    """Whether an argument is of a type as pybind11 writes it."""
    kind = re.split(r"[.:]", said.split(" = ")[0])[-1]
    if kind == "SupportsInt":
        return isinstance(value, int)
    if kind == "Buffer":
        return isinstance(value, bytes)
    if kind in PLAIN:
        return isinstance(value, PLAIN[kind])
    return (value.kind if isinstance(value, Checked) else type(value).__name__) == kind


class Library:
    """The module, which loads the plans of one engine folder; `built` is how a plan of it is made."""

    def __init__(
        self, folder: Path, model: OnnxModel, rows: Rows = ROWS, host: Sequence[str] = (), version: str = VERSION
    ) -> None:
        self.folder, self.rows, self.host = folder, rows, host
        self.__version__ = version
        self.model = model
        self.contexts: list[Context] = []
        self.blob = b"compiled"
        for name, members in (
            ("TensorIOMode", "NONE INPUT OUTPUT"),
            ("TensorLocation", "DEVICE HOST"),
            ("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE"),
            ("DataType", "FLOAT HALF INT64 BOOL UINT8"),
        ):
            setattr(self, name, getattr(BINDINGS, name, None) or enum.Enum(name, members))
        self.ILogger = type("ILogger", (), {})

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        """As the class of this name."""
        return Checked("Runtime", SimpleNamespace(deserialize_cuda_engine=lambda blob: self.loaded(logger, blob)))

    def loaded(self, logger: Any, blob: bytes) -> Any:
        """The engine of a plan; None where it is none, with the reason for the logger."""
        name = blob.decode().removeprefix("plan of ")
        if name not in FILES:
            logger.log(SimpleNamespace(name="ERROR"), "The plan is cut off")
            return None
        return Checked("ICudaEngine", Engine(self, name))


class Engine:
    """A loaded plan."""

    def __init__(self, library: Library, name: str) -> None:
        self.library = library
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        path = str(library.folder / FILES[name])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        graph: ir.Graph = library.model.graphs[name].graph
        sizes = decode_sizes if name == "decode" else other_sizes
        self.profiles: list[Profile] = profiles(graph, sizes(library.model.manifest.shape, library.rows))
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.values = {**self.inputs, **{each.name: each for each in self.session.get_outputs()}}
        self.num_io_tensors, self.num_optimization_profiles = len(self.values), len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        """Of all inputs and outputs."""
        return [*self.values][index]

    def get_tensor_mode(self, name: str) -> Any:
        """Input or output."""
        return getattr(self.library.TensorIOMode, "INPUT" if name in self.inputs else "OUTPUT")

    def get_tensor_shape(self, name: str) -> list[int]:
        """With -1 for what varies."""
        return [size if isinstance(size, int) else -1 for size in self.values[name].shape]

    def get_tensor_dtype(self, name: str) -> Any:
        """Its type."""
        return getattr(self.library.DataType, TYPES[self.values[name].type][0])

    def get_tensor_location(self, name: str) -> Any:
        """Where it has to lie."""
        return getattr(self.library.TensorLocation, "HOST" if name in self.library.host else "DEVICE")

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        """Smallest, best and largest."""
        fixed = tuple(self.values[name].shape)
        return list(self.profiles[profile].shapes.get(name, (fixed, fixed, fixed)))

    def create_runtime_config(self) -> Any:
        """As the method of this name."""
        does = SimpleNamespace(
            cuda_graph_strategy=None,
            create_runtime_cache=lambda: Checked("IRuntimeCache", Cache(self.library)),
            set_runtime_cache=lambda cache: True,
        )
        return Checked("IRuntimeConfig", does)

    def create_execution_context(self, settings: Any = None) -> Any:
        """As the method of this name."""
        made = Context(self, None if settings is None else settings.does.cuda_graph_strategy)
        self.library.contexts.append(made)
        return Checked("IExecutionContext", made)


class Cache:
    """A runtime cache, which takes what this machine has made."""

    def __init__(self, library: Library) -> None:
        self.library, self.taken = library, b""

    def deserialize(self, blob: bytes) -> bool:
        """Whether it is of this machine."""
        self.taken = blob if blob == self.library.blob else b""
        return bool(self.taken)

    def serialize(self) -> Any:
        """What was compiled."""
        return Checked("IHostMemory", self.library.blob)


class Context:
    """One context of a plan: runs its ONNX graph on what lies at the addresses."""

    def __init__(self, engine: Engine, strategy: Any) -> None:
        self.engine, self.strategy, self.profile = engine, strategy, 0
        self.shapes = {name: tuple(value.shape) for name, value in engine.inputs.items()}
        self.addresses: dict[str, int] = {}
        self.calls = 0
        self.works = True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """Choose a profile; shapes have to be set again."""
        self.profile = profile
        self.shapes = {name: tuple(value.shape) for name, value in self.engine.inputs.items()}
        return 0 <= profile < len(self.engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Set a shape that the profile takes."""
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Set an address."""
        self.addresses[name] = address
        return name in self.engine.values

    def infer_shapes(self) -> list[str]:
        """Inputs that nothing was said of."""
        unsaid = [name for name, shape in self.shapes.items() if not all(isinstance(each, int) for each in shape)]
        return [*unsaid, *(name for name in self.engine.inputs if name not in self.addresses)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape of an output: its rows are those of the inputs."""
        rows = next(shape[0] for shape in self.shapes.values() if shape)
        (_, *rest) = self.engine.get_tensor_shape(name)
        return (rows, *rest)

    def execute_async_v3(self, stream: int) -> bool:
        """Run once."""
        assert self.addresses.keys() == self.engine.values.keys()
        feeds = {}
        for name, value in self.engine.inputs.items():
            shape, dtype = self.shapes[name], np.dtype(TYPES[value.type][1])
            raw = ctypes.string_at(self.addresses[name], int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
            feeds[name] = np.frombuffer(raw, dtype).reshape(shape)
        names = [each.name for each in self.engine.session.get_outputs()]
        for name, array in zip(names, self.engine.session.run(names, feeds), strict=True):
            ctypes.memmove(self.addresses[name], array.ctypes.data, array.nbytes)
        self.calls += 1
        return self.works


class HostGpu(Gpu):
    """The CPU in place of a GPU."""

    device = "cpu"
    name, capability = DEVICE, CAPABILITY  # type: ignore[assignment]

    def stream(self) -> Any:
        """Any stream."""
        return SimpleNamespace(cuda_stream=0)

    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """At once."""
        return contextlib.nullcontext()

    def captured(self, stream: Any, start: Callable[[], None]) -> Callable[[], None]:
        """What was captured starts again."""
        return start


def with_plans(
    model: OnnxModel, builder: str = "tensorrt-rtx", without: Sequence[str] = (), **changes: Any
) -> OnnxModel:
    """A model with plans of all its graphs, as this library loads them."""
    plans = {name: f"plan of {name}".encode() for name in model.graphs if name not in without}
    said: Mapping[str, Any] = {
        "builder": builder,
        "version": VERSION,
        "capabilities": (CAPABILITY,) if builder == "tensorrt-rtx" else (),
        "device": "" if builder == "tensorrt-rtx" else DEVICE,
        "rows": ROWS.sizes,
        "parts": {name: BuiltPart(len(plan)) for name, plan in plans.items()},
        "not_built": dict.fromkeys(without, "it was refused"),
        **changes,
    }
    return model.with_plans(plans, Build(**said))
