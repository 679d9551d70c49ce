"""A half-precision model as a float32 one that rounds where it would: for processors without kernels of the type.

ONNX Runtime has no bfloat16 on CPUs. TensorRT computes a product or a fused kernel in float32 and rounds what it gives;
so does this, behind every node.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir
from onnx_ir import DataType

from export.graph.onnx_model import OnnxModel
from export.rewrites.float_rules import DEQUANTIZE, MOVES
from export.rewrites.floats import GRAPHS, TYPES, cast_node, is_cast, values, widen
from export.rewrites.single_file import single_file


def emulated(model: OnnxModel) -> OnnxModel:
    """A copy whose graphs and caches are float32 and hold the numbers that the model's own would."""
    manifest = model.manifest
    kind = TYPES[manifest.floats][0]
    graphs: dict[str, Any] = {role: model.graphs[role].clone() for role in GRAPHS if role in model.graphs}
    for graph in graphs.values():
        emulate(graph.graph, kind)
    cache = "float32" if manifest.cache_format == manifest.floats else manifest.cache_format
    files = {role: file for role, file in manifest.files.items() if role in model.graphs}
    made = replace(
        model, plans={}, manifest=replace(manifest, floats="float32", cache_format=cache, files=files), **graphs
    )
    return made if made.generate is None else replace(made, generate=single_file(made))


def emulate(graph: ir.Graph, kind: DataType) -> None:
    """Round in place what is of a type, and compute everything in float32."""
    rounded = [
        value
        for value in values(graph)
        if value.dtype == kind and (node := value.producer()) is not None and node.op_type not in MOVES | {DEQUANTIZE}
    ]
    for value in rounded:
        node = value.producer()
        if node is not None and is_cast(node):
            node.name = f"{node.name}/kept"  # what it reads is rounded here
    widen(graph)
    for value in rounded:
        node = value.producer()
        if node is None or (not value.uses() and not value.is_graph_output()):
            continue
        name = value.name or ""
        readers, outputs = list(value.uses()), [index for index, each in enumerate(graph.outputs) if each is value]
        narrow = cast_node(value, kind, f"{name}/round")
        wide = cast_node(narrow.outputs[0], DataType.FLOAT, f"{name}/rounded")
        graph.insert_after(node, [narrow, wide])
        for use in readers:
            use.node.replace_input_with(use.idx, wide.outputs[0])
        for index in outputs:
            value.name, wide.outputs[0].name = f"{name}_unrounded", name
            graph.outputs[index] = wide.outputs[0]
