"""RMSNorm or LayerNorm with the residual add before it: com.microsoft Skip(Simplified)LayerNormalization.

The operator gives both the normalised sum and the sum itself, which the residual stream goes on with.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import MICROSOFT, Builder
from export.graph.match import constant, integer, made_by, number, require, scope, source
from export.runtime.manifest import Cache

ANCHORS = ("RMSNormalization", "LayerNormalization")
EPSILON = 1e-5  # what both operators take where none is given


def rewrite(node: ir.Node, graph: ir.Graph, cache: Cache) -> None:
    """Replace one norm and the add whose sum it normalises."""
    added = made_by(node.inputs[0], "Add")
    require(integer(node, "axis", -1) == -1, node, "it does not normalise the last axis")
    require(len(node.outputs) == 1 or not node.outputs[1].uses(), node, "its statistics are read")
    left, right = source(added), source(added, 1)
    require(left.shape is not None and left.shape == right.shape, added, "it adds values of two shapes")
    for weights in node.inputs[1:]:
        constant(weights)
    simplified = "Simplified" if node.op_type == "RMSNormalization" else ""
    builder = Builder(graph, added, scope(node))  # the sum may be read before the norm
    normalised, _, _, total = builder.node(
        f"Skip{simplified}LayerNormalization",
        [left, right, *node.inputs[1:]],
        domain=MICROSOFT,
        outputs=4,
        attributes={"epsilon": number(node, "epsilon", EPSILON)},
    )
    for before, after in ((node.outputs[0], normalised), (added.outputs[0], total)):
        after.shape, after.type = before.shape, before.type
        ir.convenience.replace_all_uses_with(before, after)
    graph.remove([node, added], safe=True)
