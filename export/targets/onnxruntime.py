"""ONNX Runtime on processors: its fastest kernels, with operators of its own."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import MICROSOFT, Builder
from export.rewrites.lowering import QuantizedLayer, n_bits
from export.targets import STANDARD, Target


class OnnxRuntime(Target):
    """Operators of com.microsoft beside the standard's; fused attention updates a shared cache in place."""

    name = "onnxruntime"
    domains = (*STANDARD, MICROSOFT)
    fusions = ("attention", "qkv", "gate-up", "norm", "activation")
    fused_cache = "shared"

    def lowered(self, builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
        """MatMulNBits where it is the fastest kernel; of int8 weights alone, the runtime dequantizes at load."""
        if layer.dynamic or (layer.weights == "int4" and layer.activations == "none"):
            return n_bits(builder, layer, x)
        return super().lowered(builder, layer, x)
