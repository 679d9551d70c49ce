"""Opening a graph on a device, whole or not at all.

ONNX Runtime gives the CPU what a provider cannot run, or everything if the provider cannot be loaded, and says nothing.
Activations are then copied back and forth at every step. So what is left to the CPU is looked up when a graph is
opened, and more than the arithmetic of shapes is an error that names the operators.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from .devices import DEVICE_ID, DOORS, Device, Door
from .errors import EngineError, first_line, shown

CPU = "CPUExecutionProvider"
ASSIGNED = "session.record_ep_graph_assignment_info"  # onnxruntime_session_options_config_keys.h, since 1.24
MOST_NAMED = 3  # kinds of operator in a message
# What computes shapes and positions. Providers leave it to the CPU on purpose: it is a few numbers, needed there to
# allocate memory, and nothing but sizes goes back to the device.
OF_SHAPES = {
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Greater",
    "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Range",
    "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub",
    "Unsqueeze", "Where",
}  # fmt: skip
STANDARD = ("", "ai.onnx")
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
SAMPLING = "/sampling/"  # in the names of operators that choose tokens
NO_SAMPLING = "export it with  engine: {sampling: false}, so that tokens are chosen outside"


class DeviceWarning(UserWarning):
    """An engine works on a device, but not as well as it could."""


class FallbackError(EngineError):
    """A provider would leave operators of a graph to the CPU."""


def open_session(device: Device, path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a graph on a device; what ONNX Runtime has to say against the graph, it raises.

    Raises:
        FallbackError: the device's provider would leave operators to the CPU.
        EngineError: the device or its provider is not here.
    """
    door = device.door
    if door is None:
        # Its own fallback would print on standard output, and try the same processor again.
        return onnxruntime.InferenceSession(str(path), options, providers=[CPU], enable_fallback=0)
    options.add_session_config_entry(ASSIGNED, "1")
    if device.captures or device.name == "directml":  # both ask for it
        options.enable_mem_pattern = False
    if door.plugin:
        chosen = {name: value for name, value in device.options.items() if name != DEVICE_ID}
        options.add_provider_for_devices([found_device(device, door)], chosen)
        session = onnxruntime.InferenceSession(str(path), options, enable_fallback=0)
    else:
        check_built_in(device, door)
        providers = [(door.provider, dict(device.options)), CPU]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    if door.provider not in session.get_providers():
        raise EngineError(
            f"device {device.name}: ONNX Runtime {onnxruntime.__version__} could not load its {door.provider} and "
            f"would use the CPU; install the driver and the CUDA and cuDNN libraries that it was built for"
        )
    check_placed(device, door, path, session)
    return session


def check_placed(device: Device, door: Door, path: Path, session: onnxruntime.InferenceSession) -> None:
    """Refuse a graph of which more than shapes is left to the CPU, and warn of one that is slower than it looks.

    Raises:
        FallbackError: some of it is.
    """
    left, count, quantizers = [], 0, 0
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            count += 1
            if part.ep_name != CPU:
                quantizers += node.op_type in QUANTIZERS
            elif node.domain not in STANDARD or node.op_type not in OF_SHAPES:
                left.append((node.op_type, node.name))
    if left:
        raise FallbackError(
            f"{path}: the device {device.name} would leave {len(left)} of its {count} operators to the CPU: "
            f"{named(left)}; {cure(door, left)}"
        )
    if quantizers and door.unfused:
        warnings.warn(
            f"{path}: {device.name} runs its {quantizers} QuantizeLinear and DequantizeLinear one by one and "
            f"multiplies in float, slower than an engine without them; NVIDIA's int8 products need the target tensorrt",
            DeviceWarning,
            stacklevel=2,
        )


def named(left: Sequence[tuple[str, str]]) -> str:
    """Operators (kind, name) in a few words."""
    kinds = Counter(kind for kind, _ in left)
    first = {kind: name for kind, name in reversed(left) if name}
    words = [
        f"{count} {kind}" + (f" ({first[kind][:100]}{', ...' if count > 1 else ''})" if kind in first else "")
        for kind, count in kinds.most_common(MOST_NAMED)
    ]
    more = len(kinds) - len(words)
    return ", ".join(words) + (f" and {more} kinds more" if more else "")


def cure(door: Door, left: Sequence[tuple[str, str]]) -> str:
    """What helps against operators (kind, name) that are left to the CPU."""
    if all(name.startswith(SAMPLING) for _, name in left):
        return NO_SAMPLING
    return next((text for kind, text in door.cures.items() if kind in dict(left)), "run it on another device")


def check_built_in(device: Device, door: Door) -> None:
    """Refuse a device whose provider the installed ONNX Runtime does not have.

    Raises:
        EngineError: it does not.
    """
    if door.provider not in onnxruntime.get_available_providers():
        raise EngineError(
            f"device {device.name}: the installed ONNX Runtime {onnxruntime.__version__} has no {door.provider}; put "
            f"{door.distribution} in its place: pip uninstall onnxruntime; pip install {door.distribution}"
        )
    if device.name == "cuda":
        preload()


@functools.cache
def preload() -> None:
    """Load CUDA's and cuDNN's libraries from NVIDIA's packages, where these are installed."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()


def found_device(device: Device, door: Door) -> Any:
    """The device of a plugin's provider that has this index.

    Raises:
        EngineError: the plugin is not installed, cannot be loaded, or shows no such device.
    """
    register(device.name)
    found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == door.provider]
    if device.index >= len(found):
        raise EngineError(
            f"device {device.name}: {door.distribution} finds "
            + (f"{len(found)} of them, so there is no {DEVICE_ID} {device.index}" if found else "no such device here")
        )
    return found[device.index]


@functools.cache
def register(name: str) -> None:
    """Make a plugin's provider known to ONNX Runtime, which takes it once in a process.

    Raises:
        EngineError: the plugin is not installed, or its library cannot be loaded.
    """
    door = DOORS[name]
    try:
        module = importlib.import_module(door.plugin)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"device {name}: {door.distribution} is not installed; pip install {door.distribution}"
        ) from error
    if any(each.ep_name == door.provider for each in onnxruntime.get_ep_devices()):
        return  # by the program around this one
    try:
        onnxruntime.register_execution_provider_library(door.provider, module.get_library_path())
    except Exception as error:
        raise EngineError(
            f"device {name}: the library of {door.distribution} cannot be loaded ({shown(first_line(error))}); it "
            f"needs the driver of the device"
        ) from error
