"""TensorRT: static graphs that keep the rules of its parser, and the plans that are built of them."""

from __future__ import annotations

from typing import ClassVar

import onnx_ir as ir

from export.building.plans import build
from export.graph.builder import Builder
from export.rewrites.byte_borders import keep_bytes_at_the_borders
from export.rewrites.lowering import LoweringError, QuantizedLayer, in_groups
from export.rewrites.tables import QuantizedTable
from export.runtime.manifest import Floats
from export.targets import Target, quantization_rules, tensorrt_rules


class TensorRT(Target):
    """Standard operators with fixed sizes."""

    name = "tensorrt"
    rules = (tensorrt_rules.findings, quantization_rules.findings)
    # A product that is cut into three equal parts is computed in float, with its weights unpacked at every step,
    # whatever the graph says. Left apart, the builder merges the products itself.
    fusions = ("gate-up",)
    cache = "static"
    builder = staticmethod(build)
    floats: ClassVar[tuple[Floats, ...]] = ("float32", "float16", "bfloat16")
    float32_operators: ClassVar[frozenset[str]] = frozenset(
        ("GroupNormalization", "InstanceNormalization", "LayerNormalization")
    )
    refusals: ClassVar[dict[str, str]] = {
        "quantize-onnx": "makes operators of ONNX Runtime; for tensorrt put quantize before the export",
        "sampling": "outside: TensorRT sorts too few logits",
    }

    def pictures(self, graph: ir.Model) -> ir.Model:
        """Bytes at its borders alone, where TensorRT knows them."""
        return keep_bytes_at_the_borders(graph)

    def lowered(self, builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
        """Q/DQ and products, as everywhere, of static activations; int4 weights have groups.

        TensorRT unpacks int4 weights inside their product only where they have groups, else to float at every step.
        """
        if layer.dynamic:
            raise LoweringError(
                f"{layer.name}: tensorrt has no dynamic int8 activations; use static ones (dynamic: false, down: same) "
                "or none"
            )
        if layer.group and layer.weights != "int4":
            raise LoweringError(
                f"{layer.name}: tensorrt unpacks {layer.weights} weights in groups to float at every step; use group 0"
            )
        if layer.zero is not None:
            raise LoweringError(f"{layer.name}: tensorrt has no zero points of weights; use symmetric: true")
        return super().lowered(builder, in_groups(layer) if layer.weights == "int4" else layer, x)

    def table_rows(self, builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
        """Refused: the builder has no rows of constants in codes that no DequantizeLinear reads."""
        raise LoweringError(
            f"{table.name}: tensorrt reads no rows of {table.weights} tables; use embedding: none, and the floats "
            "of the export"
        )
