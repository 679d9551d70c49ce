"""Where ONNX Runtime can run an engine: its execution providers, by the names that users give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .errors import shown

CPU = "cpu"
DEVICE_ID = "device_id"  # among the options of every provider: which of the devices of its kind
ON = ("1", "true")


@dataclass(frozen=True)
class Door:
    """How ONNX Runtime reaches a kind of device.

    `memory` is what it calls the device's memory. `plugin` is the module of a provider that comes as a library of its
    own; without one the provider is part of `distribution`, which is installed in ONNX Runtime's place. `graph` is the
    option that makes a step one captured graph. `cures` say for operators that the provider lacks what helps.
    `unfused` says that it runs pairs of QuantizeLinear and DequantizeLinear one by one.
    """

    provider: str
    distribution: str
    memory: str
    plugin: str = ""
    graph: str = ""
    unfused: bool = False
    cures: Mapping[str, str] = field(default_factory=dict)


DOORS = {
    "cuda": Door(
        "CUDAExecutionProvider",
        "onnxruntime-gpu",
        "cuda",
        graph="enable_cuda_graph",
        unfused=True,
        cures={
            "GroupQueryAttention": "CUDA has GroupQueryAttention in 16 bits only: export with  export: "
            "{floats: float16}, or leave the fusion 'attention' out"
        },
    ),
    "tensorrt-rtx": Door(
        "NvTensorRTRTXExecutionProvider",
        "onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "cuda",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
    "directml": Door("DmlExecutionProvider", "onnxruntime-directml", "dml"),
    "webgpu": Door(
        "WebGpuExecutionProvider",
        "onnxruntime-ep-webgpu",
        "webgpu",
        plugin="onnxruntime_ep_webgpu",
        graph="enableGraphCapture",
        unfused=True,
        cures={
            "Attention": "WebGPU has attention with a cache as GroupQueryAttention only: export for the target "
            "onnxruntime with  fuse: {}"
        },
    ),
}
NAMES = (CPU, *DOORS)


@dataclass(frozen=True)
class Device:
    """A device that was asked for, with the options of its provider.

    Raises:
        ValueError: the name is not one of `NAMES`, or options are out of range.
    """

    name: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"device {shown(self.name)}: must be one of {', '.join(NAMES)}")
        if self.door is None and self.options:
            raise ValueError(f"provider options {', '.join(self.options)}: the device {self.name} has none")
        if not self.options.get(DEVICE_ID, "0").isdecimal():
            raise ValueError(f"{DEVICE_ID} {shown(self.options[DEVICE_ID])}: must be a whole number of at least 0")

    @property
    def door(self) -> Door | None:
        """How it is reached; None for the CPU."""
        return DOORS.get(self.name)

    @property
    def index(self) -> int:
        """Which of the devices of its kind."""
        return int(self.options.get(DEVICE_ID, "0"))

    @property
    def captures(self) -> bool:
        """Whether a step is to be one captured graph."""
        return self.door is not None and self.options.get(self.door.graph, "").lower() in ON

    def without_capture(self) -> Device:
        """The same for a graph that runs once for a picture, with inputs of any size."""
        graph = "" if self.door is None else self.door.graph
        return Device(self.name, {name: value for name, value in self.options.items() if name != graph})


def device_of(
    name: str | None, recorded: Mapping[str, Mapping[str, str]], given: Mapping[str, str] | None = None
) -> Device:
    """The device of a name, the CPU if None, with the options that an engine has for it and those given now.

    Raises:
        ValueError: there is no such device, or it has no options.
    """
    name = CPU if name is None else name
    return Device(name, {**recorded.get(name, {}), **(given or {})})


def parsed_options(pairs: Sequence[str]) -> dict[str, str]:
    """Options of a provider from words like ``use_tf32=0``.

    Raises:
        ValueError: a word has no name or no value.
    """
    made = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not (name and value):
            raise ValueError(f"--provider-option: {shown(pair)} is not NAME=VALUE, like enable_cuda_graph=1")
        made[name] = value
    return made
