"""Which operators round what they are given."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.match import integer

# Their kernels round their inputs, by one scale for a whole call or differently for one row and for several.
ROUNDING = frozenset(
    (
        *("ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulBnb4"),
        *("MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm", "QLinearConv"),
        *("QLinearMatMul", "QMoE", "QuantizeLinear"),
    )
)
INT8_ARITHMETIC, FLOAT_ARITHMETIC = 4, 1  # accuracy levels of MatMulNBits, of which the first rounds inputs to 8 bits


def rounds_inputs(graph: ir.Graph) -> bool:
    """Whether products round their inputs: a float sum in another order may then come out a whole code apart."""
    return any(
        node.op_type in ROUNDING
        and (node.op_type != "MatMulNBits" or integer(node, "accuracy_level") == INT8_ARITHMETIC)
        for node in graph.all_nodes()
    )
