"""Lower a quantized table of embeddings, and a head that is tied to it, to what a target computes.

The source graph holds

    rows = compress::QuantizedEmbedding(ids, table, scale[, zero])
    logits = compress::TiedHead(x, table, scale[, zero])

Letters: V rows of the table, E their width, G groups of a row that share a scale, O outputs. table (V, E) int8, codes
of 4 bits too; scale (V, G) float32; zero (V, G) int8 where codes are not symmetric. A head takes the first O rows as
its weights; both read one table, which is kept once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import MICROSOFT, Attribute, Builder, constant, drop_unused_initializers
from export.graph.number_formats import FORMATS
from export.graph.rounding import FLOAT_ARITHMETIC, INT8_ARITHMETIC
from export.rewrites.lowering import DEFAULT_BLOCK, DOMAIN, blockwise, packed

EMBEDDING, HEAD = "QuantizedEmbedding", "TiedHead"
MIDDLE = 128  # of codes that are kept from 0 to 255, as kernels of com.microsoft want them


@dataclass(frozen=True)
class QuantizedTable:
    """A table as the nodes that read it say it; `name` is that of its module."""

    name: str
    codes: ir.Value  # (V, E) int8; packed, or counted from 0, uint8
    scale: ir.Value  # (V, G)
    group: int
    weights: str = "int8"
    zero: ir.Value | None = None  # (V, G) int8; of symmetric codes None

    @classmethod
    def of(cls, node: ir.Node) -> QuantizedTable:
        """Read a node."""
        _, codes, scale, *zero = node.inputs
        assert codes is not None
        assert scale is not None
        name, attributes = (codes.name or "").removesuffix(".weight"), node.attributes
        return cls(
            name,
            codes,
            scale,
            attributes["group"].as_int(),
            attributes["weights"].as_string(),
            zero[0] if zero else None,
        )

    @property
    def bits(self) -> int:
        """Of a code."""
        return FORMATS[self.weights].bits

    @property
    def width(self) -> int:
        """E, of codes that are not packed."""
        return int(constant(self.codes).shape[1])

    @property
    def zeros(self) -> NDArray[Any]:
        """Zero points (V, G) int8."""
        return np.zeros(constant(self.scale).shape, np.int8) if self.zero is None else constant(self.zero)

    def as_bytes(self, builder: Builder) -> QuantizedTable:
        """The same in bytes that all that read the table share: codes counted from the smallest, several in a byte."""
        codes = self.shared(builder, "bytes", lambda: packed(constant(self.codes), self.bits, self.width))
        if self.zero is None:
            return replace(self, codes=codes)
        groups = self.zeros.shape[1]
        return replace(
            self, codes=codes, zero=self.shared(builder, "zero_bytes", lambda: packed(self.zeros, self.bits, groups))
        )

    def shared(self, builder: Builder, name: str, made: Callable[[], NDArray[Any]]) -> ir.Value:
        """A constant that is made once for all readers."""
        found = builder.graph.initializers.get(f"{self.name}.{name}")
        return found or Builder(builder.graph, builder.before, self.name).initializer(name, made())


def plain_rows(builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
    """Rows of a table in operators that every runtime has: gathered codes times gathered scales.

    Gather knows no types of 4 bits: rows of such codes, or with zero points, are those of the dequantized table, which
    a runtime computes when it opens the graph.
    """
    if table.bits < 8 or table.zero is not None:
        return builder.add("Gather", [dequantized(builder, table), ids], "Rows")
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
    kept = table.as_bytes(builder)
    return builder.add(
        "GatherBlockQuantized",
        [kept.codes, ids, kept.scale, *([] if kept.zero is None else [kept.zero])],
        domain=MICROSOFT,
        bits=table.bits,
        block_size=table.group or max(16, whole),
        gather_axis=0,
        quantize_axis=1,
    )


def dequantized(builder: Builder, table: QuantizedTable) -> ir.Value:
    """The whole table (V, E) in float32, for all that read it."""
    name = f"{table.name}.dequantized"
    if (found := next((node for node in builder.graph if node.outputs[0].name == name), None)) is not None:
        return found.outputs[0]
    whole = Builder(builder.graph, builder.before, table.name)  # readers come in the order of execution
    kind = FORMATS[table.weights].kind
    scale, zeros = (each if table.group else each[:, 0] for each in (constant(table.scale), table.zeros))
    attributes: dict[str, Attribute] = {"axis": 1, "block_size": table.group} if table.group else {"axis": 0}
    constants = [
        whole.initializer("codes", constant(table.codes).astype(kind)),
        whole.initializer("scales", scale),
        whole.initializer("zero_points", zeros.astype(kind)),
    ]
    (made,) = whole.node("DequantizeLinear", constants, "Dequantize", attributes=attributes)
    made.name = name
    return made


def plain_head(builder: Builder, table: QuantizedTable, outputs: int, dynamic: bool, x: ir.Value) -> ir.Value:
    """Logits by the dequantized rows, which a runtime computes when it opens the graph."""
    if dynamic:
        x = blockwise(builder, table.group or DEFAULT_BLOCK, table.width, x)
    if table.bits < 8 or table.zero is not None:
        rows = first_rows(builder, dequantized(builder, table), outputs, "HeadRows")
        return builder.add("MatMul", [x, builder.add("Transpose", [rows], perm=[1, 0])], "Head")
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


def packed_head(builder: Builder, table: QuantizedTable, outputs: int, dynamic: bool, x: ir.Value) -> ir.Value:
    """Logits by com.microsoft MatMulNBits; dynamic, it rounds x in the groups that the rows have, and divides them."""
    shape = np.array([outputs, table.width // table.group, table.group * table.bits // 8], dtype=np.int64)
    kept = table.as_bytes(builder)
    rows = first_rows(builder, kept.codes, outputs, "HeadRows")
    constants = [
        builder.add("Reshape", [rows, builder.initializer("head_blocks", shape)], "HeadWeights"),
        first_rows(builder, kept.scale, outputs, "HeadScale"),
    ]
    if kept.zero is not None:
        constants.append(first_rows(builder, kept.zero, outputs, "HeadZeroPoints"))
    return builder.add(
        "MatMulNBits",
        [x, *constants],
        "Head",
        domain=MICROSOFT,
        K=table.width,
        N=outputs,
        bits=table.bits,
        block_size=table.group,
        accuracy_level=INT8_ARITHMETIC if dynamic else FLOAT_ARITHMETIC,
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
