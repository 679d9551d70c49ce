"""Which operators ONNX Runtime ran and how long each took, from its own profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from .drawing import conditions, draw
from .loops import new_loop

if TYPE_CHECKING:
    from .engine import Engine

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


def of_drawing(engine: Engine, count: int) -> list[Event]:
    """Time of every operator while drawing this many pictures, from ONNX Runtime's own profiler."""
    labels, features = conditions(engine.shape, count)
    with tempfile.TemporaryDirectory() as room:
        watched = replace(engine.graphs.sessions, decode=engine.graphs.open("decode", str(Path(room) / "profile")))
        loop = new_loop(watched, engine.manifest, count * (2 if engine.sampler.guided else 1))
        draw(engine._drawer(loop, engine.sampler), labels, engine.shape, engine.sampler, 0, features)
        return events_of(watched.decode)


def of_image_decoder(engine: Engine, count: int) -> list[Event]:
    """The same while decoding this many pictures."""
    with tempfile.TemporaryDirectory() as room:
        session = engine.graphs.open("image_decoder", str(Path(room) / "profile"))
        session.run(["images"], {"tokens": np.zeros((count, engine.length), dtype=np.int64)})
        return events_of(session)
