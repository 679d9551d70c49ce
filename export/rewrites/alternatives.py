"""Other ways to compute the same, for machines on which they are faster: fused nodes of a decode graph taken apart.

Letters: K inputs, N outputs of a product.

Each alternative rewrites a graph in place and returns how many places it changed. None changes a number beyond the
order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from export.graph.builder import Builder, drop_unused_initializers
from export.graph.match import Miss, constant, number, scope, source
from export.graph.products import Product, attributes


def gate_up_apart(graph: ir.Graph) -> int:
    """Gate and up projection as two products instead of one and a Split."""
    count = 0
    for node in list(graph):
        if node.op_type != "Split":
            continue
        try:
            sizes = [int(size) for size in constant(node.inputs[1])]
            parts = unpacked(source(node), sizes, node, graph)
        except Miss:
            continue
        for old, new in zip(node.outputs, parts, strict=True):
            ir.convenience.replace_all_uses_with(old, new)
        graph.remove(node, safe=True)
        count += 1
    return count


def qkv_apart(graph: ir.Graph) -> int:
    """Query, key and value as three products that GroupQueryAttention reads."""
    count = 0
    for node in list(graph):
        if node.op_type != "GroupQueryAttention" or node.inputs[1] is not None:
            continue
        heads, kv_heads = (node.attributes[name].as_int() for name in ("num_heads", "kv_num_heads"))
        try:
            outputs = Product.behind(source(node)).outputs
            width = outputs // (heads + 2 * kv_heads)
            parts = unpacked(source(node), [heads * width, kv_heads * width, kv_heads * width], node, graph)
        except Miss:
            continue
        for index, part in enumerate(parts):
            node.replace_input_with(index, part)
        count += 1
    return count


def norms_apart(graph: ir.Graph) -> int:
    """A residual add and the norm behind it as two nodes."""
    count = 0
    for node in list(graph):
        if node.op_type not in ("SkipSimplifiedLayerNormalization", "SkipLayerNormalization"):
            continue
        builder = Builder(graph, node, scope(node))
        total = builder.add("Add", [node.inputs[0], node.inputs[1]], "ResidualAdd")
        operator = node.op_type.removeprefix("Skip").replace("Simplified", "RMS").replace("RMSLayerNorm", "RMSNorm")
        weights = [each for each in node.inputs[2:] if each is not None]
        normed = builder.add(operator, [total, *weights], "Norm", axis=-1, epsilon=number(node, "epsilon", 1e-5))
        for old, new in ((node.outputs[0], normed), (node.outputs[3], total)):
            new.type, new.shape = old.type, old.shape
            ir.convenience.replace_all_uses_with(old, new)
        graph.remove(node, safe=True)
        count += 1
    return count


ALTERNATIVES: dict[str, Callable[[ir.Graph], int]] = {
    "gate-up apart": gate_up_apart,
    "qkv apart": qkv_apart,
    "norms apart": norms_apart,
}


def rewritten(decode: ir.Model, name: str) -> ir.Model | None:
    """A copy of a decode graph with one alternative; None where it changes nothing."""
    copy = decode.clone()
    if not ALTERNATIVES[name](copy.graph):
        return None
    drop_unused_initializers(copy.graph)
    return copy


def unpacked(value: ir.Value, sizes: Sequence[int], before: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """Products (..., N_i) in place of the one (..., N) that makes a value, which goes once nothing reads it.

    Raises:
        Miss: no product with constant weights makes it.
    """
    product = Product.behind(value)
    node, axis, made, first = product.node, 0 if product.packs else -1, [], 0
    names = ("weight", "weight_scale", "weight_zero_point")
    for index, size in enumerate(sizes):
        builder, own = Builder(graph, before, f"{scope(node)}_{index}"), range(first, first + size)
        weights = [
            builder.initializer(name, each.take(own, axis=axis) if each.ndim else each)
            for name, each in zip(names, product.constants, strict=False)
        ]
        if product.weights is not None:
            weights = builder.node("DequantizeLinear", weights, "DequantizeWeight", attributes=attributes(product))
        settings = {**attributes(product), "N": size} if product.packs else {}
        (result,) = builder.node(node.op_type, [source(node), *weights], domain=node.domain, attributes=settings)
        if product.bias is not None:
            bias = builder.initializer("bias", constant(product.bias).take(own))
            result = builder.add("Add", [result, bias])
        result.type = value.type
        made.append(result)
        first += size
    return made
