"""What a training file may hold beside tensors: classes that only hold data, for which empty stand-ins are read.

None of these classes is imported or called; a stand-in takes what the pickle gives it and forgets it.
"""

from __future__ import annotations

import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

# By the name in the pickle. Each only holds data, so that nothing is lost where the weights are all that is wanted.
HARMLESS = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(f"numpy.{name}" for name in ("dtype", "ndarray", "bool_", "str_", "int32", "int64", "float32", "float64")),
    *(f"numpy.dtypes.{kind}DType" for kind in (
        "Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float16", "Float32",
        "Float64", "Str", "Bytes", "Object", "DateTime64", "TimeDelta64",
    )),
    *(f"pathlib.{name}" for name in (
        "Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath",
    )),
    *(f"pathlib._local.{name}" for name in ("PosixPath", "WindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "types.SimpleNamespace"),
    "torch.torch_version.TorchVersion",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "range", "slice")),
    *(f"omegaconf.{name}" for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
        "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode",
    )),
    *("typing.Any", "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
)  # fmt: skip
MAPPINGS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
REFUSED = re.compile(r"Unsupported global: GLOBAL (\S+)")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8")


class Inert:
    """Stands for an object that only holds data."""

    def __new__(cls, *given: Any, **named: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def empty_mapping(*given: Any) -> OrderedDict[Any, Any]:
    """Stands for a defaultdict; the pickle fills it."""
    return OrderedDict()


def stand_ins() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What PyTorch's restricted unpickler may make besides tensors, by the name in the pickle."""
    return [
        *((Inert, name) for name in HARMLESS),
        *((OrderedDict, name) for name in MAPPINGS),
        (empty_mapping, "collections.defaultdict"),
    ]


def refused_class(error: Exception) -> str:
    """The class that the unpickler refused; empty if it refused something else."""
    match = REFUSED.search(str(error))
    return match[1] if match else ""


def place_of(stream: IO[bytes], refused: str) -> str:
    """The text that stands last before a class in a pickle, usually the key of what holds it; nothing is executed."""
    last = ""
    try:
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name in TEXTS:
                last = str(argument)
            elif operation.name == "GLOBAL" and str(argument).replace(" ", ".").removeprefix("__builtin__.").endswith(
                refused
            ):
                return last
    except Exception:  # damaged: then there is no place to name
        return ""
    return ""
