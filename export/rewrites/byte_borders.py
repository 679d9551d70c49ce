"""Keep bytes at the borders of a graph: pictures come in and go out as uint8, and everything between is float32.

TensorRT knows uint8 as a type of inputs and outputs alone. Floats hold every byte exactly, and what only moves bytes
moves floats too, so the numbers stay.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir import DataType

from export.graph.builder import Builder


def keep_bytes_at_the_borders(model: ir.Model) -> ir.Model:
    """A copy in which uint8 inputs are cast at once and uint8 outputs at last; where that is so, nothing changes."""
    made = model.clone()
    graph = made.graph
    for value in graph.inputs:
        if value.dtype == DataType.UINT8:
            cast_input(graph, value)
    for value in list(graph.initializers.values()):
        if value.const_value is not None and value.const_value.dtype == DataType.UINT8:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(DataType.FLOAT)
    for node in graph:
        for value in node.outputs:
            if value.dtype == DataType.UINT8 and not value.is_graph_output() and node.op_type != "Cast":
                value.type = ir.TensorType(DataType.FLOAT)
    for place, value in enumerate(graph.outputs):
        if value.dtype == DataType.UINT8 and (producer := value.producer()) is not None and producer.op_type != "Cast":
            cast_output(graph, place, value)
    return made


def cast_input(graph: ir.Graph, value: ir.Value) -> None:
    """Let every node but those that ask for sizes read the input as float32."""
    readers = [use for use in value.uses() if use.node.op_type not in ("Cast", "Shape")]
    if not readers:
        return
    builder = Builder(graph, graph[0], "bytes")
    floats = builder.add("Cast", [value], str(value.name), to=int(DataType.FLOAT))
    floats.type, floats.shape = ir.TensorType(DataType.FLOAT), value.shape
    for use in readers:
        use.node.replace_input_with(use.idx, floats)


def cast_output(graph: ir.Graph, place: int, value: ir.Value) -> None:
    """Give the output as uint8 by a last Cast of what is float32 now."""
    result = Builder(graph, None, "bytes").add("Cast", [value], str(value.name), to=int(DataType.UINT8))
    result.type, result.shape = ir.TensorType(DataType.UINT8), value.shape
    name, value.name = value.name, f"{value.name}/floats"
    result.name, value.type = name, ir.TensorType(DataType.FLOAT)
    graph.outputs[place] = result
