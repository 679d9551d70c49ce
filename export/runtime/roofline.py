"""What this machine can do at most, measured in a second or two: bytes read from memory, and products, a second.

The bandwidth is that of reading alone, on all threads, of more than the caches hold: decoding reads every weight once a
token and writes next to nothing. The rates of products are those of ONNX Runtime's own kernels on square blocks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from .providers import CPU

READ = 2**29  # bytes; no processor's cache holds them
SIDE = 1024  # of the matrices that are multiplied
REPEATS = 5

Kind = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Roofline:
    """The limits of a machine on so many threads."""

    threads: int
    read_gb_per_s: float
    fp32_gflops: float
    int8_gflops: float

    def share_of_bandwidth(self, size_bytes: float, seconds: float) -> float:
        """Which part of the measured bandwidth it is to read so much in that time."""
        return size_bytes / seconds / (self.read_gb_per_s * 1e9)

    def share_of_products(self, flops: float, seconds: float, kind: Kind) -> float:
        """Which part of the measured rate it is to compute so much in that time."""
        return flops / seconds / (1e9 * (self.int8_gflops if kind == "int8" else self.fp32_gflops))


def measure(threads: int = 0) -> Roofline:
    """The limits on `threads` threads (0: all cores); the best of a few tries each."""
    threads = threads or len(os.sched_getaffinity(0))
    return Roofline(threads, bandwidth(threads) / 1e9, products(threads, "fp32") / 1e9, products(threads, "int8") / 1e9)


def bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read."""
    parts = np.array_split(np.ones(READ, dtype=np.int8), threads)
    with ThreadPoolExecutor(threads) as pool:
        return READ / best(lambda: list(pool.map(np.max, parts)))


def products(threads: int, kind: Kind) -> float:
    """Floating or integer operations a second of a large matrix product, an addition and a multiplication each."""
    number = ir.DataType.FLOAT if kind == "fp32" else ir.DataType.UINT8
    shape = ir.Shape([SIDE, SIDE])
    x = ir.Value(name="x", shape=shape, type=ir.TensorType(number))
    array = np.ones((SIDE, SIDE), dtype=np.float32 if kind == "fp32" else np.int8)
    held = ir.tensor(array)
    weight = ir.Value(name="w", const_value=held, shape=shape, type=ir.TensorType(held.dtype))
    node = ir.Node("", "MatMul" if kind == "fp32" else "MatMulInteger", [x, weight])
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", shape, ir.TensorType(ir.DataType.FLOAT if kind == "fp32" else ir.DataType.INT32)
    graph = ir.Graph([x], [y], nodes=[node], initializers=[weight], opset_imports={"": 20}, name="probe")
    session = probe(ir.Model(graph, ir_version=9), threads)
    feeds = {"x": np.ones((SIDE, SIDE), dtype=number.numpy())}
    return 2 * SIDE**3 / best(lambda: session.run(None, feeds))


def probe(model: ir.Model, threads: int, *, exact_inputs: bool = False) -> onnxruntime.InferenceSession:
    """A session of a small graph in memory, on so many threads of the processor.

    With `exact_inputs`, as engines of weights alone in few bits are opened: no kernel rounds what they are multiplied
    with.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # cores are for the next session
    if exact_inputs:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=[CPU])


def held(array: NDArray[Any]) -> onnxruntime.OrtValue:
    """An array that a session can read, and write where it reads it."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls, behind one that warms up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
