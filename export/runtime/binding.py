"""Inputs and outputs of a session, each bound where the session reads or writes it: on the host, or on its device.

ONNX Runtime copies a bound input that lies elsewhere once, when it is bound, and never again. So each lies where it is
read: an array of the host that is changed in place, or memory of the device that is written before a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .devices import Device

HOST, PINNED = "Cpu", "Pinned"  # in the names that ONNX Runtime gives to memory
GRAPH, NO_GRAPH = "gpu_graph_id", -1  # onnxruntime_run_options_config_keys.h
GRAPHS = count(1)  # a captured graph is of one set of buffers; its number is of the whole process, as sessions are many
FROZEN = "total_sequence_length"  # is only a bound where a graph was captured: the lengths of rows are on the device

NUMPY = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32"}


class Memory:
    """Numbers on a device; a provider of a plugin allocates and copies by other calls than one that is built in."""

    def __init__(self, device: Device, info: Any) -> None:
        """`info` is what the session says of the memory of one of its inputs or outputs on the device."""
        assert device.door is not None
        self.name, self.index = device.door.memory, device.index
        self.info = info if device.door.plugin else None

    def zeros(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Room for an array, with its numbers."""
        if self.info is None:
            made = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, self.name, self.index)
        else:
            made = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, memory_info=self.info)
        self.write(made, array)
        return made

    def write(self, value: onnxruntime.OrtValue, array: NDArray[Any]) -> None:
        """Copy an array of the value's shape to the device."""
        if not array.size:
            return
        if self.info is None:
            value.update_inplace(array)
        else:
            onnxruntime.copy_tensors([onnxruntime.OrtValue.ortvalue_from_numpy(array)], [value])

    def read(self, value: onnxruntime.OrtValue) -> NDArray[Any]:
        """The numbers of a value."""
        if self.info is None:
            made: NDArray[Any] = value.numpy()
            return made
        kind = NUMPY[value.data_type()]
        made = np.zeros(value.shape(), dtype=kind)
        if made.size:
            onnxruntime.copy_tensors([value], [onnxruntime.OrtValue.ortvalue_from_numpy(made)])
        return made


class Bound:
    """A session's inputs and outputs for one loop, which alone writes into them."""

    def __init__(self, session: onnxruntime.InferenceSession, device: Device) -> None:
        self.session, self.device = session, device
        self.binding = session.io_binding()
        ports = (*session.get_inputs(), *session.get_outputs())
        infos = (*session.get_input_memory_infos(), *session.get_output_memory_infos())
        there = (
            {}
            if device.door is None
            else {port.name: info for port, info in zip(ports, infos, strict=True) if not of_host(info.name)}
        )
        self.there = frozenset(there)  # what lies on the device
        self.memory = Memory(device, next(iter(there.values()))) if there else None
        self.taken = frozenset(each.name for each in session.get_inputs())
        self.fed: dict[str, NDArray[Any]] = {}  # the host's copy of every input that is fed
        self.values: dict[str, onnxruntime.OrtValue] = {}  # inputs on the device
        self.given: dict[str, NDArray[Any] | onnxruntime.OrtValue] = {}  # outputs that are written into one buffer
        self.first: dict[str, NDArray[Any]] = {}  # what inputs that grow began with
        self.outputs: list[str] = []  # as ONNX Runtime numbers them
        self.graphs: dict[tuple[bytes, ...], int] = {}  # captured ones, by what the host feeds
        self.options = {number: run_options(number) for number in (NO_GRAPH,)} if device.captures else {}

    def feed(self, name: str, array: NDArray[Any]) -> None:
        """Let an input read a copy of these numbers from the next call on."""
        held = self.fed.get(name)
        if held is None or held.shape != array.shape or held.dtype != array.dtype:
            self.release()
            held = self.fed[name] = np.array(array, order="C")
            if self.memory is not None and name in self.there:
                self.values[name] = self.memory.zeros(held)
                self.binding.bind_ortvalue_input(name, self.values[name])
            else:
                self.binding.bind_cpu_input(name, held)
            return
        held[...] = array
        if self.memory is not None and name in self.there:
            self.memory.write(self.values[name], held)

    def give(self, name: str, zeros: NDArray[Any] | None = None) -> None:
        """Let an output be written into one buffer of this type and shape, or into memory that each call makes."""
        self.release()
        if name not in self.outputs:
            self.outputs.append(name)
        self.given.pop(name, None)
        if zeros is None:
            self.binding.bind_output(name, "cpu")
        elif self.memory is not None and name in self.there:
            self.given[name] = self.memory.zeros(zeros)
            self.binding.bind_ortvalue_output(name, self.given[name])
        else:
            self.given[name] = zeros
            self.binding.bind_output(name, "cpu", 0, zeros.dtype, zeros.shape, zeros.ctypes.data)

    def forget_outputs(self) -> None:
        """Bind no outputs any more."""
        self.binding.clear_binding_outputs()
        self.outputs.clear()
        self.given.clear()

    def hold(self, taken: str, given: str, zeros: NDArray[Any]) -> None:
        """Let an input and an output be one buffer, which lies where the input is read."""
        self.release()
        self.outputs.append(given)
        if self.memory is not None and taken in self.there:
            self.given[given] = self.memory.zeros(zeros)
            self.binding.bind_ortvalue_input(taken, self.given[given])
            self.binding.bind_ortvalue_output(given, self.given[given])
        else:
            self.given[given] = zeros
            self.binding.bind_cpu_input(taken, zeros)
            self.binding.bind_output(given, "cpu", 0, zeros.dtype, zeros.shape, zeros.ctypes.data)

    def begin(self, taken: str, zeros: NDArray[Any]) -> None:
        """Let an input that grows begin with this."""
        if self.memory is not None and taken in self.there:
            self.binding.bind_ortvalue_input(taken, self.memory.zeros(zeros))
        else:  # ONNX Runtime reads the array where it lies, and does not keep it alive
            self.first[taken] = zeros
            self.binding.bind_ortvalue_input(taken, onnxruntime.OrtValue.ortvalue_from_numpy(zeros))

    def make(self, given: str, taken: str) -> None:
        """Let the next call make an output anew, where an input of the call after it reads it."""
        if given not in self.outputs:
            self.outputs.append(given)
        if self.memory is not None and taken in self.there:
            self.binding.bind_output(given, self.memory.name, self.memory.index)
        else:
            self.binding.bind_output(given, "cpu")

    def pass_on(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Bind outputs of the last call as inputs of the next."""
        values = dict(zip(self.outputs, self.binding.get_outputs(), strict=True))
        for given, taken in pairs:
            self.binding.bind_ortvalue_input(taken, values[given])

    def bind(self, name: str, value: onnxruntime.OrtValue) -> None:
        """Let an input read a value that lies where the session reads it."""
        self.release()
        self.binding.bind_ortvalue_input(name, value)

    def room(self, name: str, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Room for an input, where the session reads it."""
        if self.memory is not None and name in self.there:
            return self.memory.zeros(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def run(self, *, capture: bool = False) -> None:
        """One call; as a captured graph if the device does that, every size is fixed and nothing grows."""
        options = self.options.get(self.graph() if capture else NO_GRAPH)
        self.session.run_with_iobinding(self.binding, options)

    def graph(self) -> int:
        """The number of the captured graph for what is bound; what the host feeds is as it was when it was captured."""
        key = tuple(self.fed[name].tobytes() for name in sorted(self.fed) if name not in self.there and name != FROZEN)
        if key not in self.graphs:
            number = self.graphs[key] = next(GRAPHS)
            self.options[number] = run_options(number)
        return self.graphs[key]

    def release(self) -> None:
        """Forget captured graphs: they read and write what was bound before."""
        for number in self.graphs.values():
            self.session.release_captured_graph(number)
            del self.options[number]
        self.graphs.clear()

    def read(self, name: str) -> NDArray[Any]:
        """What the last call gave; the next one overwrites a buffer."""
        given = self.given.get(name)
        if isinstance(given, np.ndarray):
            return given
        if given is not None:
            assert self.memory is not None
            return self.memory.read(given)
        made: NDArray[Any] = self.binding.get_outputs()[self.outputs.index(name)].numpy()
        return made


def run_options(graph: int) -> onnxruntime.RunOptions:
    """Those of a call that is, or becomes, the captured graph of this number."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(GRAPH, str(graph))
    return options


def of_host(name: str) -> bool:
    """Whether memory of this name is the host's."""
    return name == HOST or name.endswith(PINNED)
