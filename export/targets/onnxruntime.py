"""ONNX Runtime on processors: its fastest kernels, with operators of its own."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import MICROSOFT, Builder
from export.graph.number_formats import FORMATS
from export.rewrites.lowering import LoweringError, QuantizedLayer, n_bits
from export.rewrites.tables import QuantizedTable, packed_head, packed_rows, plain_head
from export.targets import STANDARD, Target

TWO_BIT_GROUPS = (32, 64, 128)  # with others MatMulNBits computes in float32, whatever its accuracy level


class OnnxRuntime(Target):
    """Operators of com.microsoft beside the standard's; fused attention updates a shared cache in place."""

    name = "onnxruntime"
    domains = (*STANDARD, MICROSOFT)
    fusions = ("attention", "qkv", "gate-up", "norm", "activation")
    fused_cache = "shared"

    def lowered(self, builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
        """MatMulNBits where it is the fastest kernel; of int8 weights alone, the runtime dequantizes at load.

        Raises:
            LoweringError: two bits in groups for which the runtime has no kernel that rounds inputs.
        """
        if layer.weights == "int2" and layer.dynamic and layer.block not in TWO_BIT_GROUPS:
            raise LoweringError(
                f"{layer.name}: onnxruntime rounds the inputs of int2 weights in groups of 32, 64 or 128 alone; "
                f"here they are {layer.block}"
            )
        if layer.dynamic or FORMATS[layer.weights].bits < 8:
            return n_bits(builder, layer, x)
        return super().lowered(builder, layer, x)

    def table_rows(self, builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
        """GatherBlockQuantized."""
        return packed_rows(builder, table, ids)

    def tied_head(self, builder: Builder, table: QuantizedTable, outputs: int, dynamic: bool, x: ir.Value) -> ir.Value:
        """MatMulNBits where inputs are rounded or rows have 4 bits, else rows that the runtime dequantizes at load."""
        if table.group and (dynamic or table.bits < 8):
            return packed_head(builder, table, outputs, dynamic, x)
        kept = table if table.bits < 8 else table.as_bytes(builder)
        return plain_head(builder, kept, outputs, dynamic, x)
