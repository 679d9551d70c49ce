"""Lower a quantized table of embeddings, and a head that is tied to it, to what a target computes.

The source graph holds

    rows = compress::QuantizedEmbedding(ids, table, scale)
    logits = compress::TiedHead(x, table, scale)

Letters: V rows of the table, E their width, G groups of a row that share a scale, O outputs. table (V, E) int8; scale
(V, G) float32. A head takes the first O rows as its weights; both read one table, which is kept once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import MICROSOFT, Attribute, Builder, constant, drop_unused_initializers
from export.graph.rounding import INT8_ARITHMETIC
from export.rewrites.lowering import DEFAULT_BLOCK, DOMAIN, blockwise

EMBEDDING, HEAD = "QuantizedEmbedding", "TiedHead"
MIDDLE = 128  # of codes that are kept from 0 to 255, as kernels of com.microsoft want them


@dataclass(frozen=True)
class QuantizedTable:
    """A table as the nodes that read it say it; `name` is that of its module."""

    name: str
    codes: ir.Value  # (V, E) int8
    scale: ir.Value  # (V, G)
    group: int

    @classmethod
    def of(cls, node: ir.Node) -> QuantizedTable:
        """Read a node."""
        codes, scale = node.inputs[1], node.inputs[2]
        assert codes is not None
        assert scale is not None
        return cls((codes.name or "").removesuffix(".weight"), codes, scale, node.attributes["group"].as_int())

    @property
    def width(self) -> int:
        """E."""
        return int(constant(self.codes).shape[1])

    def as_bytes(self, builder: Builder) -> QuantizedTable:
        """The same with codes from 0 to 255, uint8, which all that read the table share."""
        shared = builder.graph.initializers.get(f"{self.name}.bytes")
        if shared is None:
            codes: NDArray[Any] = constant(self.codes).view(np.uint8) + np.uint8(MIDDLE)  # wraps around as it should
            shared = Builder(builder.graph, builder.before, self.name).initializer("bytes", codes)
        return replace(self, codes=shared)


def plain_rows(builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
    """Rows of a table in operators that every runtime has: gathered codes times gathered scales."""
    codes = builder.add("Cast", [builder.add("Gather", [table.codes, ids], "Codes")], to=int(ir.DataType.FLOAT))
    scale = builder.add("Gather", [table.scale, ids], "Scale")  # (..., G)
    groups = constant(table.scale).shape[1]
    if groups == 1:
        return builder.add("Mul", [codes, scale], "Rows")
    # Groups divide rows evenly: (..., E) as (..., G, group), each times its own scale.
    apart = builder.initializer("apart", np.array([0, 0, groups, table.group], dtype=np.int64))
    together = builder.initializer("together", np.array([0, 0, table.width], dtype=np.int64))
    last = builder.initializer("last", np.array([-1], dtype=np.int64))
    scaled = builder.add("Mul", [builder.add("Reshape", [codes, apart], "Apart"),
                                 builder.add("Unsqueeze", [scale, last])])  # fmt: skip
    return builder.add("Reshape", [scaled, together], "Rows")


def packed_rows(builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
    """Rows of a table by com.microsoft GatherBlockQuantized, which dequantizes only those that it reads."""
    whole = 1 << (table.width - 1).bit_length()  # a block that no row exceeds
    return builder.add(
        "GatherBlockQuantized",
        [table.as_bytes(builder).codes, ids, table.scale],
        domain=MICROSOFT,
        bits=8,
        block_size=table.group or max(16, whole),
        gather_axis=0,
        quantize_axis=1,
    )


def plain_head(builder: Builder, table: QuantizedTable, outputs: int, dynamic: bool, x: ir.Value) -> ir.Value:
    """Logits by the dequantized rows, which a runtime computes when it opens the graph."""
    if dynamic:
        x = blockwise(builder, table.group or DEFAULT_BLOCK, table.width, x)
    scale = table.scale if table.group else builder.initializer("row_scale", constant(table.scale)[:, 0])
    kind = constant(table.codes).dtype
    middle = builder.initializer(
        "zero_point", np.full(constant(scale).shape, MIDDLE if kind == np.uint8 else 0, dtype=kind)
    )
    attributes: dict[str, Attribute] = {"axis": 1, "block_size": table.group} if table.group else {"axis": 0}
    restored, *_ = builder.node(
        "DequantizeLinear", [table.codes, scale, middle], "DequantizeWeight", attributes=attributes
    )
    rows = first_rows(builder, restored, outputs, "HeadRows")
    return builder.add("MatMul", [x, builder.add("Transpose", [rows], perm=[1, 0])], "Head")


def packed_head(builder: Builder, table: QuantizedTable, outputs: int, x: ir.Value) -> ir.Value:
    """Logits by com.microsoft MatMulNBits, which rounds x in the groups that the rows have, and divides them."""
    shape = np.array([outputs, table.width // table.group, table.group], dtype=np.int64)
    rows = first_rows(builder, table.as_bytes(builder).codes, outputs, "HeadRows")
    return builder.add(
        "MatMulNBits",
        [
            x,
            builder.add("Reshape", [rows, builder.initializer("head_blocks", shape)], "HeadWeights"),
            first_rows(builder, table.scale, outputs, "HeadScale"),
        ],
        "Head",
        domain=MICROSOFT,
        K=table.width,
        N=outputs,
        bits=8,
        block_size=table.group,
        accuracy_level=INT8_ARITHMETIC,
    )


def first_rows(builder: Builder, value: ir.Value, count: int, name: str) -> ir.Value:
    """The first rows of a table: a head predicts fewer outputs than there are ids."""
    ends = [builder.numbers(f"head_{end}", number) for end, number in (("start", 0), ("end", count), ("axis", 0))]
    return builder.add("Slice", [value, *ends], name)


Rows = Callable[[Builder, QuantizedTable, ir.Value], ir.Value]
Head = Callable[[Builder, QuantizedTable, int, bool, ir.Value], ir.Value]


def lower_tables(model: ir.Model, rows: Rows, head: Head) -> None:
    """Replace every node that reads a quantized table, in place, by what a target's methods compute.

    Raises:
        LoweringError: the target has no form for a table.
    """
    graph = model.graph
    readers = [node for node in graph if node.domain == DOMAIN and node.op_type in (EMBEDDING, HEAD)]
    for index, node in enumerate(readers):
        table, read = QuantizedTable.of(node), node.inputs[0]
        assert read is not None
        builder = Builder(graph, node, f"{table.name}.{index}" if index else table.name)
        output = node.outputs[0]
        if node.op_type == EMBEDDING:
            made = rows(builder, table, read)
        else:
            outputs, dynamic = (node.attributes[name].as_int() for name in ("outputs", "dynamic"))
            made = head(builder, table, outputs, bool(dynamic), read)
        made.name, made.shape, made.type = output.name, output.shape, output.type
        ir.convenience.replace_all_uses_with(output, made, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)
