"""Gate and up projection of a gated feed-forward network from one product."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.match import require, scope, source
from export.graph.products import pack, split
from export.runtime.manifest import Cache

ANCHORS = ("Sigmoid",)


def rewrite(node: ir.Node, graph: ir.Graph, cache: Cache) -> None:
    """Pack the products behind silu(gate) * up."""
    gate = source(node)
    silu = only_reader(node.outputs[0], node)
    require(source(silu) is gate or source(silu, 1) is gate, silu, "it is not the gate times its sigmoid")
    gated = only_reader(silu.outputs[0], silu)
    other = 1 if source(gated) is silu.outputs[0] else 0
    up = source(gated, other)
    packed, outputs = pack([gate, up], "gate_up", node, graph)
    new_gate, new_up = split(packed, outputs, f"{scope(node)}.gate_up", node, graph)
    for old, new in ((gate, new_gate), (up, new_up)):
        ir.convenience.replace_all_uses_with(old, new)


def only_reader(value: ir.Value, node: ir.Node) -> ir.Node:
    """The multiplication that alone reads a value."""
    readers = [use.node for use in value.uses()]
    require(len(readers) == 1 and readers[0].op_type == "Mul", node, "it is not read by one multiplication")
    return readers[0]
