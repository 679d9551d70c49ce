"""Exact rewrites of the image decoder's graph that ONNX Runtime does not make itself, in standard operators.

Letters: B pictures, C channels, G groups, H x W pixels.

ONNX Runtime expands GroupNormalization into its definition: some twenty operators, with copies that convert float32 to
float32. Of an image decoder that is a tenth of the time. As InstanceNormalization of each group it is one kernel, and a
product and a sum that ONNX Runtime fuses no further. Swish (x * sigmoid(x)) it fuses by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from export.graph.builder import Builder, drop_unused_initializers
from export.graph.match import Miss, constant, integer, number, require, scope, size, source
from export.graph.weights import with_weights_inside

CONVOLUTION = "Conv"
NORMALIZATIONS = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization")


@dataclass(frozen=True)
class FusedDecoder:
    """The rewritten graph, and how often each rewrite applied."""

    graph: ir.Model
    counts: dict[str, int]


def fuse_decoder(decoder: ir.Model) -> FusedDecoder:
    """The same decoder with every rewrite applied where it can be; the input is left as it was."""
    made = typed(decoder)
    counts = {}
    for name, (anchor, rewrite) in REWRITES.items():
        nodes = [node for node in made.graph if node.op_type == anchor and node.domain == ""]
        counts[name] = sum(applied(rewrite, made.graph, node) for node in nodes)
    drop_unused_initializers(made.graph)
    return FusedDecoder(made, counts)


def parts(decoder: ir.Model) -> tuple[list[str], list[str], list[str]]:
    """Names of the convolutions in front of the first normalization, of those behind it, and of the last one.

    The first ones read codes and the last one makes pixels: they are a small part of the work, and what they round
    shows most.
    """
    first: list[str] = []
    behind: list[str] = []
    found = first
    for node in decoder.graph:
        if node.op_type in NORMALIZATIONS:
            found = behind
        if node.op_type == CONVOLUTION:
            found.append(node.name or "")
    return first, behind[:-1], behind[-1:]


def typed(model: ir.Model) -> ir.Model:
    """A copy with the type and shape of every value, as far as they can be inferred."""
    proto = ir.to_proto(with_weights_inside(model))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def applied(rewrite: Callable[[ir.Graph, ir.Node], None], graph: ir.Graph, node: ir.Node) -> bool:
    """Whether the pattern held at the node, and was rewritten."""
    try:
        rewrite(graph, node)
    except Miss:
        return False
    return True


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let everything that read the node's output read this value, which keeps its name, type and shape."""
    old = node.outputs[0]
    require(not old.is_graph_output(), node, "makes an output of the graph")
    value.type, value.shape = old.type, old.shape
    old.replace_all_uses_with(value)
    graph.remove(node, safe=True)


def group_norm(graph: ir.Graph, node: ir.Node) -> None:
    """GroupNormalization of x (B, C, H, W) as InstanceNormalization of (B, G, C/G H W), then scale and shift.

    Raises:
        Miss: scale and shift are computed, or the picture's size is not known.
    """
    x = source(node)
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2])
    groups = integer(node, "num_groups")
    sizes = [size(x, axis) for axis in range(1, len(x.shape or ()))]
    require(len(weight) == sizes[0], node, "scales groups, not channels")
    build = Builder(graph, node, f"{scope(node)}.{node.name}".strip("./").replace("/", "."))
    ones = (len(sizes) - 1) * (1,)
    cut = build.add("Reshape", [x, build.initializer("groups", np.array([0, groups, -1]))], "cut")
    unit = [build.initializer(name, fill(groups, np.float32)) for name, fill in (("one", np.ones), ("zero", np.zeros))]
    normal = build.add("InstanceNormalization", [cut, *unit], epsilon=number(node, "epsilon", 1e-5))
    whole = build.add("Reshape", [normal, build.initializer("channels", np.array([-1, *sizes]))], "whole")
    scaled = build.add("Mul", [whole, build.initializer("weight", weight.reshape(-1, *ones))])
    shifted = build.add("Add", [scaled, build.initializer("bias", bias.reshape(-1, *ones))])
    replace_node(graph, node, shifted)


REWRITES: dict[str, tuple[str, Callable[[ir.Graph, ir.Node], None]]] = {
    "group-norm": ("GroupNormalization", group_norm)
}
