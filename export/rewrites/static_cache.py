"""Give a decode graph a static KV cache: buffers of full length, written in place at a position (TensorScatter).

Letters: B batch, T tokens of a call, K key/value heads, L length of the buffer, P length of a text, D width, d head
width.

TensorRT keeps such a buffer at one address when the network's input and output share it; its Attention takes an
explicit mask and no past.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from export.graph.builder import Builder
from export.graph.match import scope
from export.runtime.shape import Shape, TextShape
from export.runtime.signature import POSITION, POSITIONS

OPSET = 24  # TensorScatter
UNSEEN = -65504.0  # added to the score of a key that is not seen; the lowest number of float16, so it is one there too


def make_static(model: ir.Model, shape: Shape) -> None:
    """Turn a growing cache into a static one, in place.

    Inputs `past.*` become (B, K, L, d), `position` () int64 says where the call's first token goes; outputs `present.*`
    are (B, K, L, d). The mask is `UNSEEN` where a query does not see a key and 0 elsewhere: TensorRT builds no fused
    attention in half precision of several tokens with a mask of truth values.

    The rows of a text no longer stand before those of the tokens: the graph takes all `features` (B, P, C), and at the
    first P positions it reads the text's rows in place of its tokens'.

    Raises:
        ValueError: it is not a graph with a growing cache.
    """
    graph = model.graph
    model.opset_imports[""] = OPSET
    past = past_length(graph)
    position = ir.Value(name=POSITION, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    builder = Builder(graph, graph[0], "cache")
    # Everything that reads the number of cached tokens now gets the position.
    ir.convenience.replace_all_uses_with(past, position)

    tokens = graph.inputs[0]
    count = builder.add("Squeeze", [builder.add("Shape", [tokens], "tokens", start=1, end=2)], "count")
    steps = builder.add("Range", [number(builder, "zero", 0), count, number(builder, "one", 1)], "steps")
    queries = builder.add("Add", [steps, position], "queries")  # (T,)
    batch = builder.add("Shape", [tokens], "batch", start=0, end=1)
    writes = builder.add("Expand", [position, batch], "writes")  # (B,)
    if shape.text:
        put_text_in_place(graph, queries, shape)
    mask = added_mask(builder, visible(builder, graph, queries, shape))

    for node in list(graph):
        if node.op_type == "Attention":
            for index in (1, 2):
                joined = node.inputs[index]
                assert joined is not None
                scatter(graph, joined, writes, shape.reach)
            node.resize_inputs(4)
            node.replace_input_with(3, mask)
            scale_queries(graph, node)
    graph.inputs.insert(1, position)
    common.RemoveUnusedNodesPass()(model)


def visible(builder: Builder, graph: ir.Graph, queries: ir.Value, shape: Shape) -> ir.Value:
    """Whether queries at these positions (T,) see the keys of the buffer (1 or B, 1, T, L)."""
    keys = number(builder, "keys", np.arange(shape.reach)[None, :])
    column = builder.add("Unsqueeze", [queries, number(builder, "last", [1])], "column")  # (T, 1)
    seen_to = column
    if shape.drawing.scaled:  # a call is a scale, which sees itself and what is before it
        seen_to = builder.add("ReduceMax", [column], "newest", keepdims=1)  # (1, 1)
        seen_to = builder.add("Expand", [seen_to, builder.add("Shape", [column], "columns")], "seen_to")
    sees = builder.add("LessOrEqual", [keys, seen_to], "sees")  # (T, L)
    front = number(builder, "front", [0, 1])
    if not shape.text:
        return builder.add("Unsqueeze", [sees, front], "mask")
    valid = next(value for value in graph.inputs if value.name == "valid")  # (B, P)
    rows = builder.add("Shape", [valid], "rows", start=0, end=1)
    rest = number(builder, "rest", [shape.reach - shape.text.length])
    size = builder.add("Concat", [rows, rest], "size_behind", axis=0)
    behind = builder.add("Expand", [builder.initializer("yes", np.array(True)), size], "behind")
    real = builder.add("Concat", [valid, behind], "real", axis=1)  # (B, L); padding is seen by itself alone
    real = builder.add("Unsqueeze", [real, number(builder, "middle", [1, 2])], "real_keys")
    itself = builder.add("Unsqueeze", [builder.add("Equal", [keys, column], "equal"), front], "itself")
    seen = builder.add("And", [builder.add("Unsqueeze", [sees, front], "before"), real], "seen")
    return builder.add("Or", [seen, itself], "mask")


def added_mask(builder: Builder, mask: ir.Value) -> ir.Value:
    """What is added to the scores, of the type of the graph's floats."""
    nothing = builder.initializer("seen", np.array(0, dtype=np.float32))
    unseen = builder.initializer("unseen", np.array(UNSEEN, dtype=np.float32))
    return builder.add("Where", [mask, nothing, unseen], "added_mask")


def put_text_in_place(graph: ir.Graph, queries: ir.Value, shape: Shape) -> None:
    """Let queries at positions (T,) read rows of the text at its positions, and those of the tokens behind it."""
    assert shape.text is not None
    features = next(value for value in graph.inputs if value.name == "features")
    assert features.shape is not None
    join = next((node for node in graph if node.op_type == "Concat" and from_module(node.inputs[0], "text")), None)
    if join is None:
        raise ValueError("no node joins the rows of a text with those of the tokens")
    rows, embedded = join.inputs
    assert rows is not None
    assert embedded is not None
    take_whole_text(graph, features, shape.text)
    builder = Builder(graph, join, "text_in_place")
    row = builder.add("Min", [queries, number(builder, "last_row", shape.text.length - 1)], "row")
    given = builder.add("Gather", [rows, row], "given", axis=1)  # (B, T, D)
    is_text = builder.add("Less", [queries, number(builder, "end", shape.text.length)], "is_text")
    column = builder.add("Unsqueeze", [is_text, number(builder, "column", [1])], "is_text_column")
    read = builder.add("Where", [column, given, embedded], "read")
    read.type, read.shape = embedded.type, embedded.shape
    ir.convenience.replace_all_uses_with(join.outputs[0], read)
    graph.remove(join, safe=True)


def take_whole_text(graph: ir.Graph, features: ir.Value, text: TextShape) -> None:
    """Let every call take all features of a text (B, P, C); its rows no longer count among those of the call."""
    assert features.shape is not None
    features.shape = ir.Shape([features.shape[0], text.length, text.width])
    (shape,) = (use.node for use in features.uses() if use.node.op_type == "Shape")
    (count,) = (use.node.outputs[0] for use in shape.outputs[0].uses())  # how many features the call has
    builder = Builder(graph, graph[0], "text_in_place")
    for least in [use.node for use in count.uses() if use.node.op_type == "Min"]:  # as many as there are positions
        for total in [use.node for use in least.outputs[0].uses()]:
            (tokens,) = (value for value in total.inputs if value is not least.outputs[0])
            if total.op_type != "Add" or tokens is None:
                raise ValueError(f"{total.name} reads how many rows a text has; only the sum with the tokens is known")
            ir.convenience.replace_all_uses_with(total.outputs[0], tokens)
    ir.convenience.replace_all_uses_with(count, number(builder, "length", text.length))
    of_text, with_text = f"Min({text.length}, text)", f"Min({text.length}, text) + "
    for node in graph:
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([
                    dim if isinstance(dim, int) else text.length if dim.value == of_text
                    else (dim.value or "").replace(with_text, "") or None for dim in value.shape
                ])  # fmt: skip


def from_module(value: ir.Value | None, module: str) -> bool:
    """Whether a module of this name made a value."""
    node = value.producer() if value is not None else None
    return node is not None and (node.name or "").startswith(f"/{module}/")


def number(builder: Builder, suffix: str, value: int | Sequence[int] | NDArray[np.int64]) -> ir.Value:
    """A constant of whole numbers."""
    return builder.initializer(suffix, np.asarray(value, dtype=np.int64))


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


def scale_queries(graph: ir.Graph, attention: ir.Node) -> None:
    """Multiply the queries instead of stating a scale: with one, TensorRT copies all cached keys at every step."""
    stated = attention.attributes.pop("scale", None)
    query = attention.inputs[0]
    if stated is None or query is None:
        return
    assert query.shape is not None
    width = query.shape[-1]
    assert isinstance(width, int)
    builder = Builder(graph, attention, scope(attention))
    factor = builder.initializer("query_scale", np.array(stated.as_float() * math.sqrt(width), dtype=np.float32))
    scaled = builder.add("Mul", [query, factor], "ScaledQuery")
    scaled.shape, scaled.type = query.shape, query.type
    attention.replace_input_with(0, scaled)


def ask_for_all(graph: ir.Graph, length: int) -> None:
    """Logits of all positions at every step, for runtimes that want static shapes."""
    positions = next(value for value in graph.inputs if value.name == POSITIONS)
    every = Builder(graph, graph[0], "logits").initializer(POSITIONS, np.arange(length))
    ir.convenience.replace_all_uses_with(positions, every)
    graph.inputs.remove(positions)
    graph.outputs[0].shape = ir.Shape([graph.outputs[0].shape[0], length, graph.outputs[0].shape[2]])  # type: ignore[index]
