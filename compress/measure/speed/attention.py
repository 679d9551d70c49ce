"""How long the attention of one layer takes on this machine, by its heads and positions, as deployed.

The operators are those of fused engines: GroupQueryAttention on a cache that is past and present at once where one
query of a row looks back, ai.onnx Attention where several positions ask together. Several layers stand in a graph, each
with keys and values of its own, as in `kernels`.

Letters: R rows, S queries of a row, P positions that they see, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from compress.measure.speed.kernels import LAYERS, REPEATS
from compress.measure.speed.timing import paired
from compress.measure.statistics import Estimate
from export.graph.builder import MICROSOFT, Builder
from export.graph.onnx_model import IR_VERSION, OPSET
from export.runtime.roofline import held, probe

MULTIPLE = 8  # of head widths that GroupQueryAttention takes
PAST, PRESENT, SEEN, POSITIONS = "past", "present", "seen", "positions"


@dataclass(frozen=True)
class Attention:
    """Attention of R rows of S queries each to P positions, their own among them."""

    heads: int
    kv_heads: int
    head_width: int
    rows: int
    queries: int
    positions: int

    @property
    def cached(self) -> bool:
        """Whether it is GroupQueryAttention, which appends to a cache and looks back."""
        return self.queries == 1 and self.head_width % MULTIPLE == 0


def milliseconds(kernels: Sequence[Attention], threads: int, repeats: int = REPEATS) -> dict[Attention, Estimate]:
    """Median milliseconds of each on so many threads, with the exact interval of the median; all are interleaved."""
    wanted = list(dict.fromkeys(kernels))
    timings = paired({str(index): runner(kernel, threads) for index, kernel in enumerate(wanted)}, repeats)
    return {kernel: timings.median_ms(str(index)).times(1 / LAYERS) for index, kernel in enumerate(wanted)}


def runner(kernel: Attention, threads: int) -> Callable[[], object]:
    """What runs a graph of layers once, on buffers that stay where they are."""
    session = probe(graph_of(kernel), threads)
    generator = np.random.Generator(np.random.Philox(0))
    lengths = {SEEN: kernel.positions - 1, POSITIONS: kernel.positions}
    binding = session.io_binding()
    for given in session.get_inputs():
        if given.name in lengths:
            value = np.full(given.shape, lengths[given.name], dtype=np.int32)
        else:
            value = generator.standard_normal(given.shape, dtype=np.float32)
        buffer = held(value)
        binding.bind_ortvalue_input(given.name, buffer)
        if given.name.startswith(PAST):
            binding.bind_ortvalue_output(given.name.replace(PAST, PRESENT), buffer)
    for made in session.get_outputs():
        if not made.name.startswith(PRESENT):
            binding.bind_output(made.name)
    return lambda: session.run_with_iobinding(binding)


def graph_of(kernel: Attention) -> ir.Model:
    """A graph of layers that read one query (R, S, H d); cached ones read one new key and value (R, 1, K d) too."""
    rows, width = kernel.rows, kernel.head_width
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET, MICROSOFT: 1}, name="attention")

    def given(name: str, shape: Sequence[int], kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
        graph.inputs.append(value)
        return value

    def gives(value: ir.Value, name: str, shape: Sequence[int]) -> None:
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(value)

    query = given("query", [rows, kernel.queries, kernel.heads * width])
    new = 1 if kernel.cached else kernel.positions
    if kernel.cached:
        lengths = given(SEEN, [rows], ir.DataType.INT32), given(POSITIONS, [], ir.DataType.INT32)
    for index in range(LAYERS):
        builder = Builder(graph, None, f"layer{index}")
        key, value = (given(f"{name}{index}", [rows, new, kernel.kv_heads * width]) for name in ("key", "value"))
        if kernel.cached:
            shape = [rows, kernel.kv_heads, kernel.positions, width]
            past = [given(f"{PAST}_{name}{index}", shape) for name in ("key", "value")]
            mixed, *present = builder.node(
                "GroupQueryAttention",
                [query, key, value, *past, *lengths],
                domain=MICROSOFT,
                outputs=3,
                attributes={"num_heads": kernel.heads, "kv_num_heads": kernel.kv_heads},
            )
            for name, made in zip(("key", "value"), present, strict=True):
                gives(made, f"{PRESENT}_{name}{index}", shape)
        else:
            mixed = builder.add(
                "Attention", [query, key, value], q_num_heads=kernel.heads, kv_num_heads=kernel.kv_heads
            )
        gives(mixed, f"mixed{index}", [rows, kernel.queries, kernel.heads * width])
    return ir.Model(graph, ir_version=IR_VERSION)
