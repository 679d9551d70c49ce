"""Which operators ONNX Runtime ran and how long each took, from its own profiler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

LOW_PRECISION = {
    "DynamicQuantizeMatMul",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulInteger16",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearMatMul",
}
FULL_PRECISION = {"FusedGemm", "FusedMatMul", "Gemm", "MatMul", "TransposeMatMul"}


@dataclass(frozen=True)
class Event:
    """One run of one operator."""

    op: str
    node: str
    microseconds: float


def events_of(session: onnxruntime.InferenceSession) -> list[Event]:
    """What a session's profiler has seen; it ends there."""
    return [
        Event(record["args"]["op_name"], record["name"].removesuffix("_kernel_time"), record["dur"])
        for record in json.loads(Path(session.end_profiling()).read_text())
        if record.get("cat") == "Node" and record["name"].endswith("_kernel_time")
    ]


def low_precision_share(events: Sequence[Event]) -> float:
    """Share of the matrix products' time that ran in kernels for low-precision weights or activations.

    The operators are those that ONNX Runtime really ran, after its own optimisation: a Q/DQ pair that it did not
    fuse, or weights that it dequantized at load, count as full precision.
    """
    low = sum(event.microseconds for event in events if event.op in LOW_PRECISION)
    full = sum(event.microseconds for event in events if event.op in FULL_PRECISION)
    return low / (low + full) if low + full else 0.0
