"""Activations of several nodes in one: silu as com.microsoft QuickGelu, GELU with its bias as BiasGelu or FastGelu."""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import MICROSOFT, Builder
from export.graph.match import constant, made_by, require, scope, source
from export.runtime.manifest import Cache

ANCHORS = ("Sigmoid", "Gelu")


def rewrite(node: ir.Node, graph: ir.Graph, cache: Cache) -> None:
    """Replace one activation."""
    builder = Builder(graph, node, scope(node))
    if node.op_type == "Sigmoid":
        silu(node, builder)
        return
    added = made_by(node.inputs[0], "Add")
    require(len(constant(added.inputs[1]).shape) == 1, added, "it does not add a bias")
    approximate = node.attributes["approximate"].as_string() if "approximate" in node.attributes else "none"
    operator = "FastGelu" if approximate == "tanh" else "BiasGelu"
    replace(node, builder.add(operator, added.inputs, domain=MICROSOFT))


def silu(node: ir.Node, builder: Builder) -> None:
    """x * sigmoid(x) is QuickGelu with alpha 1."""
    x, readers = source(node), [use.node for use in node.outputs[0].uses()]
    require(len(readers) == 1 and readers[0].op_type == "Mul", node, "it is not read by one multiplication")
    require(x in readers[0].inputs, readers[0], "it does not multiply a value with its sigmoid")
    replace(readers[0], builder.add("QuickGelu", [x], domain=MICROSOFT, alpha=1.0))


def replace(node: ir.Node, result: ir.Value) -> None:
    """Let a new value stand for what the node made."""
    result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
    ir.convenience.replace_all_uses_with(node.outputs[0], result)
