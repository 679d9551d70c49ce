"""Give a decode graph a static KV cache: buffers of full length, written in place at a position (TensorScatter).

Letters: B batch, T tokens of a call, K key/value heads, L length of the buffer, d head width.

TensorRT keeps such a buffer at one address when the network's input and output share it; its Attention takes an
explicit mask and no past.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from export.graph.builder import Builder
from export.runtime.signature import POSITION, POSITIONS

OPSET = 24  # TensorScatter


def make_static(model: ir.Model, length: int) -> None:
    """Turn a growing cache into a static one, in place.

    Inputs `past.*` become (B, K, L, d), `position` () int64 says where the call's first token goes; outputs `present.*`
    are (B, K, L, d). The mask is true where a written key is not after the query.
    """
    graph = model.graph
    model.opset_imports[""] = OPSET
    position = ir.Value(name=POSITION, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    builder = Builder(graph, graph[0], "cache")

    def number(suffix: str, value: int | list[int] | NDArray[Any]) -> ir.Value:
        return builder.initializer(suffix, np.asarray(value, dtype=np.int64))

    # Everything that reads the number of cached tokens now gets the position.
    past = past_length(graph)
    ir.convenience.replace_all_uses_with(past, position)

    tokens = graph.inputs[0]
    count = builder.add("Squeeze", [builder.add("Shape", [tokens], "tokens", start=1, end=2)], "count")
    queries = builder.add(
        "Add", [builder.add("Range", [number("zero", 0), count, number("one", 1)], "steps"), position], "queries"
    )
    column = builder.add("Unsqueeze", [queries, number("last", [1])], "column")
    keys = number("keys", np.arange(length)[None, :])
    mask = builder.add("LessOrEqual", [keys, column], "mask")  # (T, L)
    mask4 = builder.add("Unsqueeze", [mask, number("front", [0, 1])], "mask4")  # (1, 1, T, L)
    batch = builder.add("Shape", [tokens], "batch", start=0, end=1)
    writes = builder.add("Expand", [position, batch], "writes")  # (B,)

    for node in list(graph):
        if node.op_type == "Attention":
            for index in (1, 2):
                joined = node.inputs[index]
                assert joined is not None
                scatter(graph, joined, writes, length)
            node.replace_input_with(3, mask4)
    graph.inputs.insert(1, position)
    common.RemoveUnusedNodesPass()(model)


def past_length(graph: ir.Graph) -> ir.Value:
    """The scalar that the graph computes from a cache's shape: how many tokens are cached."""
    found = [
        use.node.outputs[0]
        for value in graph.inputs
        for shape in (usage.node for usage in value.uses() if usage.node.op_type == "Shape")
        if (value.name or "").startswith("past.") and shape.attributes["start"].as_int() == 2
        for use in shape.outputs[0].uses()
        if use.node.op_type == "Squeeze"
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} nodes compute the number of cached tokens; need exactly one")
    return found[0]


def scatter(graph: ir.Graph, joined: ir.Value, writes: ir.Value, length: int) -> None:
    """Replace Concat(past, new) by TensorScatter(past, new, position)."""
    concat = joined.producer()
    if concat is None or concat.op_type == "TensorScatter":
        return  # grouped layers may share it
    past, new = concat.inputs
    assert past is not None
    assert past.shape is not None
    past.shape = ir.Shape([past.shape[0], past.shape[1], length, past.shape[3]])
    node = ir.Node(
        "", "TensorScatter", [past, new, writes], ir.convenience.convert_attributes({"axis": -2, "mode": "linear"}),
        name=(concat.name or "").replace("Concat", "TensorScatter"),
    )  # fmt: skip
    output = node.outputs[0]
    output.name, output.type, output.shape = joined.name, joined.type, past.shape
    graph.insert_before(concat, node)
    ir.convenience.replace_all_uses_with(joined, output, replace_graph_outputs=True)
    graph.remove(concat, safe=True)


def ask_for_all(graph: ir.Graph, length: int) -> None:
    """Logits of all positions at every step, for runtimes that want static shapes."""
    positions = next(value for value in graph.inputs if value.name == POSITIONS)
    every = Builder(graph, graph[0], "logits").initializer(POSITIONS, np.arange(length))
    ir.convenience.replace_all_uses_with(positions, every)
    graph.inputs.remove(positions)
    graph.outputs[0].shape = ir.Shape([graph.outputs[0].shape[0], length, graph.outputs[0].shape[2]])  # type: ignore[index]
