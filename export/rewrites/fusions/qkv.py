"""Query, key and value from one product; GroupQueryAttention reads them packed, other attention after a Split.

Where queries and keys are normalised in between, every attention reads them after a Split.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.match import made_by, require, scope, source
from export.graph.products import PRODUCTS, pack, split
from export.runtime.manifest import Cache

ANCHORS = ("GroupQueryAttention", "Attention")
# What may stand between a product and attention: a norm, cutting into heads, rotation, the append to the cache.
BETWEEN = (
    "Concat",
    "Div",
    "LayerNormalization",
    "Mul",
    "RMSNormalization",
    "Reshape",
    "Slice",
    "Squeeze",
    "Sub",
    "TensorScatter",
    "Transpose",
    "Unsqueeze",
)


def rewrite(node: ir.Node, graph: ir.Graph, cache: Cache) -> None:
    """Pack the three products that one attention reads."""
    if node.op_type == "GroupQueryAttention":
        require(node.inputs[1] is not None, node, "it reads packed numbers already")
    if node.op_type == "GroupQueryAttention" and not any(is_normalised(source(node, index)) for index in range(2)):
        packed, _ = pack([source(node, index) for index in range(3)], "qkv", node, graph)
        node.replace_input_with(0, packed)
        node.replace_input_with(1, None)
        node.replace_input_with(2, None)
        return
    flats = [flat(source(node, index)) for index in range(3)]
    first = next(each for each in graph if each.inputs and any(value in flats for value in each.inputs))
    packed, outputs = pack(flats, "qkv", first, graph)
    parts = split(packed, outputs, f"{scope(node)}.qkv", first, graph)
    for old, new in zip(flats, parts, strict=True):
        ir.convenience.replace_all_uses_with(old, new)


def is_normalised(value: ir.Value) -> bool:
    """Whether something stands between attention and the product."""
    node = value.producer()
    return node is not None and node.op_type in BETWEEN


def flat(value: ir.Value) -> ir.Value:
    """The product before it was cut into heads, rotated and appended to the cache."""
    while (node := made_by(value, *BETWEEN, "Add", *PRODUCTS)).op_type in BETWEEN:
        appends = node.op_type in ("Concat", "TensorScatter") and source(node).is_graph_input()
        value = source(node, 1 if appends else 0)
    return value
