"""Attention with its KV cache and rotary positions: one operator that knows its past.

Letters: B batch, T tokens of a call, P cached tokens, L length of the shared cache, H query heads, K key/value heads,
d head width.

With a shared cache it is com.microsoft GroupQueryAttention: rotation, the append to the cache in place, and causal
attention in one node. With a growing one it is ai.onnx Attention (opset 23) with past and present, joined inside.
Attention without a cache (masked models) stays ai.onnx Attention for both, which cuts into heads itself; a norm of
queries and keys over all heads together becomes RMSNormalization of the uncut numbers, which is the same mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from export.graph.builder import MICROSOFT, Attribute, Builder
from export.graph.match import Miss, constant, integer, made_by, number, require, scope, size, source
from export.rewrites.static_cache import past_length
from export.runtime.manifest import Cache
from export.runtime.signature import SEQLENS, TOTAL

ANCHORS = ("Attention",)
HEAD_NORMS = ("LayerNormalization", "RMSNormalization")
HEADS_AND_WIDTH = [1, 3]  # axes of (B, H, T, d)
ROTARY_HEAD, PLAIN_HEAD = 16, 8  # multiples that the operator takes of head widths
INT32 = ir.TensorType(ir.DataType.INT32)


@dataclass(frozen=True)
class Stream:
    """Queries or keys before they were cut into heads, (B, T, heads * d), and the tables they are rotated by."""

    flat: ir.Value
    tables: tuple[ir.Value, ir.Value] | None


def rewrite(node: ir.Node, graph: ir.Graph, cache: Cache) -> None:
    """Replace one Attention over joined past and new keys and values."""
    if len(node.inputs) == 3:
        whole(node, graph)
        return
    require(len(node.inputs) == 4, node, "it has a cache of its own")
    require(number(node, "softcap", 0.0) == 0.0, node, "it caps its scores")
    check_causal(source(node, 3), graph)
    key, value = (joined(source(node, index)) for index in (1, 2))
    if cache == "shared":
        group_query(node, key, value, graph)
    else:
        with_past(node, key, value, graph)


def whole(node: ir.Node, graph: ir.Graph) -> None:
    """ai.onnx Attention to all positions at once that cuts into heads itself, as masked models have it."""
    require("q_num_heads" not in node.attributes, node, "it cuts into heads itself")
    heads = [size(source(node, index), 1) for index in (0, 1)]
    builder = Builder(graph, node, scope(node))
    merge = only_flatten(node)
    flats = [uncut(source(node, index), builder, name) for index, name in enumerate(("query", "key", "value"))]
    settings: dict[str, Attribute] = {name: attribute.value for name, attribute in node.attributes.items()}
    settings |= {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
    (mixed,) = builder.node("Attention", flats, "WholeAttention", attributes=settings)
    replace_all([merge.outputs[0]], [mixed])
    graph.remove([merge, made_by(merge.inputs[0], "Transpose"), node], safe=True)


def uncut(value: ir.Value, builder: Builder, name: str) -> ir.Value:
    """What was cut into heads (B, H, S, d), before that (B, S, H * d); normalised if the heads were."""
    made = made_by(value, "Transpose", "Mul")
    if made.op_type == "Transpose":
        return unrotated(value)
    cut, inverse = source(made), made_by(source(made, 1), "Reciprocal")
    added = made_by(source(made_by(source(inverse), "Sqrt")), "Add")
    mean = made_by(source(added), "ReduceMean")
    square = made_by(source(mean), "Pow")
    axes = constant(mean.inputs[1]).tolist()
    require(axes == HEADS_AND_WIDTH, mean, "it is not the mean over all heads")
    require(source(square) is cut and float(constant(square.inputs[1])) == 2, square, "it does not square the heads")
    flat = unrotated(cut)
    ones = builder.initializer(f"{name}_ones", np.ones(size(cut, 1) * size(cut, 3), dtype=np.float32))
    epsilon = float(constant(added.inputs[1]))
    normed = builder.add("RMSNormalization", [flat, ones], f"{name}_norm", axis=-1, epsilon=epsilon)
    normed.type, normed.shape = flat.type, flat.shape
    return normed


def joined(value: ir.Value) -> ir.Node:
    """The Concat of past and new keys or values."""
    node = made_by(value, "Concat")
    require(len(node.inputs) == 2 and source(node).is_graph_input(), node, "it does not append to a cache")
    require(value.is_graph_output(), node, "the longer cache is not an output")
    return node


def with_past(node: ir.Node, key: ir.Node, value: ir.Node, graph: ir.Graph) -> None:
    """ai.onnx Attention that takes past and new apart and returns them joined."""
    builder = Builder(graph, node, scope(node))
    inputs = [node.inputs[0], source(key, 1), source(value, 1), node.inputs[3], source(key), source(value)]
    mixed, *present = builder.node("Attention", inputs, "CachedAttention", outputs=3)
    replace_all([node.outputs[0], key.outputs[0], value.outputs[0]], [mixed, *present])
    for old in (node, key, value):
        graph.remove(old, safe=True)


def group_query(node: ir.Node, key: ir.Node, value: ir.Node, graph: ir.Graph) -> None:
    """com.microsoft GroupQueryAttention on buffers that are past and present at once."""
    query, new = stream(source(node), graph), stream(source(key, 1), graph)
    if (query.tables is None) != (new.tables is None):
        raise Miss(f"stopped at {node.name}: only one of query and key is rotated")
    merge = only_flatten(node)
    kv_heads, width = size(source(key), 1), size(source(key), 3)
    multiple = ROTARY_HEAD if query.tables is not None else PLAIN_HEAD
    require(width % multiple == 0, node, f"heads are {width} wide; GroupQueryAttention wants a multiple of {multiple}")
    builder = Builder(graph, node, scope(node))
    mixed, *present = builder.node(
        "GroupQueryAttention",
        [
            query.flat,
            new.flat,
            unrotated(source(value, 1)),
            source(key),
            source(value),
            *lengths(graph),
            *(query.tables or ()),
        ],
        domain=MICROSOFT,
        outputs=3,
        attributes={
            "num_heads": size(query.flat, 2) // width,
            "kv_num_heads": kv_heads,
            "do_rotary": int(query.tables is not None),
            "rotary_interleaved": int(query.tables is not None),
            **({"scale": number(node, "scale", 0.0)} if "scale" in node.attributes else {}),
        },
    )
    replace_all([merge.outputs[0], key.outputs[0], value.outputs[0]], [mixed, *present])
    for old in (merge, made_by(merge.inputs[0], "Transpose"), node, key, value):
        graph.remove(old, safe=True)


def replace_all(old: Sequence[ir.Value], new: Sequence[ir.Value]) -> None:
    """Let the new values stand for the old ones, outputs of the graph included, with their names and shapes."""
    for before, after in zip(old, new, strict=True):
        after.shape, after.type = before.shape, before.type
        if before.is_graph_output():
            before.name, after.name = f"{before.name}_before", before.name
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)


def stream(value: ir.Value, graph: ir.Graph) -> Stream:
    """Follow heads (B, heads, T, d) back to where they were flat, through a rotation if there is one."""
    if (node := value.producer()) is not None and node.op_type == "Transpose":
        return Stream(unrotated(value), None)
    if node is not None and node.op_type in HEAD_NORMS:
        return Stream(normalised(node, graph), None)
    return rotated(value, graph)


def normalised(node: ir.Node, graph: ir.Graph) -> ir.Value:
    """The norm of each head, made before the heads change places with the positions, and flat (B, T, heads * d)."""
    require(integer(node, "axis", -1) in (-1, 3), node, "it does not normalise each head alone")
    heads = source(made_by(source(node), "Transpose"))  # (B, T, heads, d)
    made_by(heads, "Reshape")
    builder = Builder(graph, node, scope(node))
    settings: dict[str, Attribute] = {name: attribute.value for name, attribute in node.attributes.items()}
    (normed,) = builder.node(node.op_type, [heads, *node.inputs[1:]], "Heads", attributes=settings)
    flat = builder.add("Reshape", [normed, builder.initializer("flat", np.array([0, 0, -1], dtype=np.int64))], "Flat")
    assert heads.shape is not None
    flat.type, flat.shape = heads.type, ir.Shape([*heads.shape[:2], size(heads, 2) * size(heads, 3)])
    return flat


def unrotated(value: ir.Value) -> ir.Value:
    """What Reshape and Transpose cut into heads."""
    return source(made_by(source(made_by(value, "Transpose")), "Reshape"))


def rotated(value: ir.Value, graph: ir.Graph) -> Stream:
    """What interleaved pairs were rotated: even * cos - odd * sin beside even * sin + odd * cos."""
    pairs = made_by(source(made_by(value, "Reshape")), "Concat")
    require(len(pairs.inputs) == 2, pairs, "it does not join two halves of pairs")
    lower, upper = (
        made_by(source(made_by(half, "Unsqueeze")), op) for half, op in zip(pairs.inputs, ("Sub", "Add"), strict=True)
    )
    even_cos, odd_sin = (factors(source(lower, index)) for index in (0, 1))
    even_sin, odd_cos = (factors(source(upper, index)) for index in (0, 1))
    even, odd = even_cos[0], odd_sin[0]
    agree = (even_sin[0], odd_cos[0], odd_cos[1], odd_sin[1]) == (even, odd, even_cos[1], even_sin[1])
    require(agree, pairs, "it is not a rotation of pairs")
    halves = [made_by(source(made_by(half, "Squeeze")), "Slice") for half in (even, odd)]
    starts = [int(constant(half.inputs[1])[0]) for half in halves]
    require(starts == [0, 1] and source(halves[0]) is source(halves[1]), halves[0], "it is not one of a pair's numbers")
    flat = unrotated(source(made_by(source(halves[0]), "Reshape")))
    return Stream(flat, (table(even_cos[1], graph), table(even_sin[1], graph)))


def factors(value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The two factors of a product."""
    node = made_by(value, "Mul")
    return source(node), source(node, 1)


def table(value: ir.Value, graph: ir.Graph) -> ir.Value:
    """The rotary table (positions, d / 2) whose rows for the call's tokens this is."""
    gather = made_by(value, "Gather")
    constant(gather.inputs[0])
    check_positions(through(source(gather, 1), "Cast", "Reshape"), graph)
    return source(gather)


def through(value: ir.Value, *operators: str) -> ir.Value:
    """The value before nodes that change neither its numbers nor their order."""
    while (node := value.producer()) is not None and node.op_type in operators:
        value = source(node)
    return value


def check_positions(value: ir.Value, graph: ir.Graph) -> None:
    """Refuse positions other than past + 0, past + 1, ..."""
    node = made_by(value, "Add")
    steps = made_by(node.inputs[0], "Range")
    require(source(node, 1) is past_length(graph), node, "it does not add the number of cached tokens")
    check_counts(steps)


def check_counts(steps: ir.Node) -> None:
    """Refuse ranges other than 0, 1, 2, ..."""
    start, _, step = steps.inputs
    require((int(constant(start)), int(constant(step))) == (0, 1), steps, "it does not count 0, 1, 2, ...")


def check_causal(value: ir.Value, graph: ir.Graph) -> None:
    """Refuse masks other than: the key's position is at most the query's."""
    node = made_by(value, "LessOrEqual")
    keys, queries = (source(made_by(each, "Unsqueeze")) for each in node.inputs)
    check_counts(made_by(keys, "Range"))
    check_positions(queries, graph)


def lengths(graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """Inputs that say how far the shared cache is filled after this call, made once."""
    found = {value.name: value for value in graph.inputs}
    if SEQLENS not in found:
        last = ir.Value(name=SEQLENS, shape=ir.Shape([graph.inputs[0].shape[0]]), type=INT32)  # type: ignore[index]
        total = ir.Value(name=TOTAL, shape=ir.Shape([]), type=INT32)
        graph.inputs.extend([last, total])
        found |= {SEQLENS: last, TOTAL: total}
    return found[SEQLENS], found[TOTAL]


def only_flatten(node: ir.Node) -> ir.Node:
    """The Reshape that makes (B, T, H * d) of the mixed heads, behind their Transpose."""
    users = [use.node for use in node.outputs[0].uses()]
    require(len(users) == 1 and users[0].op_type == "Transpose", node, "its heads are not joined again")
    flattened = [use.node for use in users[0].outputs[0].uses()]
    require(len(flattened) == 1 and flattened[0].op_type == "Reshape", users[0], "its heads are not flattened")
    return flattened[0]


def finish(graph: ir.Graph) -> None:
    """Positions that remain (learned ones) count from the total that is fed: a shared cache is as long as it gets."""
    total = next((value for value in graph.inputs if value.name == TOTAL), None)
    if total is None:
        return
    builder = Builder(graph, graph[0], "positions")
    count = builder.add("Squeeze", [builder.add("Shape", [graph.inputs[0]], "tokens", start=1, end=2)], "count")
    after = builder.add("Cast", [total], "after", to=int(ir.DataType.INT64))
    before = builder.add("Sub", [after, count], "before")
    ir.convenience.replace_all_uses_with(past_length(graph), before)
