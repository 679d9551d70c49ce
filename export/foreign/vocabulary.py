"""Only the rows of the embedding and the columns of the head stay that our tokens can reach.

Letters: B batch, S our tokens of a call, V image tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.foreign.signature import (
    FLOAT,
    LOGITS,
    AdoptionError,
)
from export.foreign.writing import Writing
from export.graph.builder import Builder


def ending(graph: ir.Graph, value: ir.Value, kind: ir.DataType | None) -> ir.Value:
    """An output of the foreign graph in fp32; it is of this `kind` unless it says another."""
    if (value.dtype or kind) in (FLOAT, None):
        return value
    made = Builder(graph, None, "adopted").add("Cast", [value], f"{value.name}/Cast", to=int(FLOAT))
    value.name = f"foreign.{value.name}"
    return made


def restrict_embedding(builder: Builder, spelled: ir.Value, ids: ir.Value, writing: Writing) -> None:
    """Keep only the rows of embeddings that an id can reach; `ids` are the `spelled` ones in the foreign type."""
    used, compact = np.unique(writing.table, return_inverse=True)
    gather = spelled.producer()
    assert gather is not None
    lookups = [(use.node, array) for use in ids.uses() if (array := embedding(use.node, ids)) is not None]
    if not lookups:
        return
    place = builder.add("Gather", [builder.initializer("compact", compact), gather.inputs[1]], "compact_ids")
    # `builder` writes before the first foreign node, so what is new stands before whatever reads it.
    for number, (node, array) in enumerate(lookups):
        if used.max() >= len(array):
            raise AdoptionError(f"id {used.max()} is named, but its embedding has {len(array)} rows")
        node.replace_input_with(0, builder.initializer(f"embedding{number or ''}.weight", array[used]))
        node.replace_input_with(1, place)


def embedding(node: ir.Node, ids: ir.Value) -> NDArray[Any] | None:
    """The constant table whose rows a node looks up by ids."""
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if node.op_type != "Gather" or axis != 0 or node.inputs[1] is not ids:
        return None
    table = node.inputs[0]
    return None if table is None or table.const_value is None else table.const_value.numpy()


def restrict_head(graph: ir.Graph, logits: ir.Value, ends: ir.Value | None, writing: Writing) -> ir.Value:
    """Logits (B, S, V): of image tokens, at the last id of each of our tokens."""
    node = logits.producer()
    if node is None:
        raise AdoptionError("logits are an input or a constant")
    ids = np.array(writing.image_ids, dtype=np.int64)
    while node.op_type in ("Cast", "Identity") and (cast := node.inputs[0]) is not None and len(cast.uses()) == 1:
        behind = cast.producer()
        if behind is None or cast.is_graph_output():
            break
        node = behind
    builder = Builder(graph, node, "adopted.head")
    weight = node.inputs[1] if node.op_type == "MatMul" and len(node.inputs) > 1 else None
    array = weight.const_value.numpy() if weight is not None and weight.const_value is not None else None
    known = array.shape[1] if array is not None and array.ndim == 2 else last_size(logits)
    if known is not None and ids.max() >= known:
        raise AdoptionError(f"image id {ids.max()} is named, but there are {known} logits")
    if array is not None and array.ndim == 2:
        node.replace_input_with(1, builder.initializer("weight", array[:, ids]))
        for value in node.outputs:
            value.shape = None
        steps = []
    else:
        steps = [(builder.initializer("image_ids", ids), 2)]
    steps += [(ends, 1)] if ends is not None else []
    value = ending(graph, logits, None)
    for number, (wanted, axis) in enumerate(steps):
        attributes, name = [ir.AttrInt64("axis", axis)], f"/adopted/head/Gather_{number}"
        made = ir.Node("", "Gather", [value, wanted], attributes, name=name)
        graph.append(made)
        value.name, value.shape = f"all_{value.name}", None
        value = made.outputs[0]
    value.name, value.type = LOGITS, ir.TensorType(FLOAT)
    value.shape = ir.Shape(["batch", "tokens", len(ids)])
    return value


def last_size(value: ir.Value) -> int | None:
    """The last dimension, where it is known."""
    size = value.shape[-1] if value.shape is not None and len(value.shape) else None
    return size if isinstance(size, int) else None
