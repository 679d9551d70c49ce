"""Tests trace a module once: `torch.onnx.export`, seconds even for two layers, remembers its graphs in a folder.

What decides a graph is its key: everything that a module holds but the values of its state, its arguments, and the
code of its classes; the folder stands for the code that these call and for the libraries. Values of parameters and
buffers cannot decide it, because the exporter traces without them; they are put into what is remembered from the
module at hand. What has no sure key (a class inside of a test, a lambda, a state tensor that the exporter changed) is
traced as ever.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import marshal
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

Export = Callable[..., Any]
ROOT = Path(__file__).parents[2]
ROOMS = ("compress/models", "export/tracing", "export/runtime")  # whose functions are called while a module is traced
LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript")
LARGEST = 2**26  # bytes of state; files of larger models would cost more than they save
UNKEYED = (AttributeError, pickle.PicklingError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Remembered:
    """What tests and the product read of an exported program."""

    model: ir.Model

    @property
    def model_proto(self) -> onnx.ModelProto:
        """The graph with its weights inside."""
        return ir.to_proto(self.model)


class KeyWriter(pickle.Pickler):
    """Pickles what decides a graph; tensors of the state by name and type, other tensors by their bytes."""

    def __init__(self, file: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(file)
        self.fast = True  # equal content gives equal bytes, whichever of its objects are one
        self.names = names

    def persistent_id(self, value: Any) -> Any:
        """What stands for a tensor, and for a set, which has no order."""
        if isinstance(value, Tensor):
            kind = (type(value).__qualname__, str(value.dtype), tuple(value.shape), value.stride(), value.requires_grad)
            name = self.names.get(id(value))
            return kind, name or hashlib.sha256(value.detach().contiguous().numpy().tobytes()).hexdigest()
        if isinstance(value, set | frozenset) and all(isinstance(each, str) for each in value):
            return "set", tuple(sorted(value))
        return None


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones have two."""
    return {name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def key_of(module: nn.Module, given: Any, settings: dict[str, Any]) -> str:
    """A hash of all that decides the graph.

    Raises:
        one of UNKEYED: something in it cannot be told apart from others of its kind.
    """
    names: dict[int, str] = {}
    for name, value in state_of(module).items():
        names.setdefault(id(value), name)
    tied = {name: names[id(value)] for name, value in state_of(module).items()}
    written = io.BytesIO()
    KeyWriter(written, names).dump((module, given, settings, tied, list(code_of(module)), torch.get_default_dtype()))
    return hashlib.sha256(written.getvalue()).hexdigest()


def code_of(module: nn.Module) -> Iterator[tuple[str, bytes]]:
    """The compiled methods of the module's classes: a test may have written or replaced one."""
    for cls in dict.fromkeys(base for each in module.modules() for base in type(each).__mro__):
        for function in vars(cls).values():
            if isinstance(function, FunctionType):
                yield cls.__qualname__, marshal.dumps(function.__code__)


def folder_of_now(cache: Path) -> Path:
    """Where graphs stay between runs of the suite: a folder for this code and these libraries; older ones go."""
    told = hashlib.sha256()
    for path in sorted(each for room in ROOMS for each in (ROOT / room).rglob("*.py")):
        told.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    told.update(repr([(name, version(name)) for name in LIBRARIES]).encode())
    folder = cache / told.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in cache.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def remembering(export: Export, folder: Path) -> Export:
    """`torch.onnx.export` with a memory that processes share; one that asks for a graph in the making waits."""
    folder.mkdir(parents=True, exist_ok=True)

    def remembered(module: Any, args: Any = (), f: Any = None, **settings: Any) -> Any:
        if f is not None or not settings.get("dynamo") or not isinstance(module, nn.Module):
            return export(module, args, f, **settings)
        state = state_of(module)
        if sum(value.nbytes for value in state.values()) > LARGEST:
            return export(module, args, **settings)
        try:
            path = folder / key_of(module, args, settings)
        except UNKEYED:
            return export(module, args, **settings)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                program = export(module, args, **settings)
                if not holds(program.model, state):
                    return program
                unfinished = path.with_suffix(".new")
                unfinished.write_bytes(ir.to_proto(program.model).SerializeToString())
                unfinished.rename(path)
        return Remembered(with_state(ir.from_proto(onnx.ModelProto.FromString(path.read_bytes())), state))

    return remembered


def holds(model: ir.Model, state: dict[str, Tensor]) -> bool:
    """Whether the graph's initializers that are called as tensors of the state are those tensors."""
    for name, value in model.graph.initializers.items():
        if name in state:
            raw = getattr(value.const_value, "raw", None)
            if not isinstance(raw, Tensor) or raw.data_ptr() != state[name].data_ptr():
                return False
    return True


def with_state(model: ir.Model, state: dict[str, Tensor]) -> ir.Model:
    """A remembered graph with the values of the module at hand."""
    for name, value in model.graph.initializers.items():
        if name in state:
            value.const_value = TorchTensor(state[name].detach(), name=name)
    return model
