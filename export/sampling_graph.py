"""Sampling inside the decode graph: what `export.choosing` does with a step's logits, as ONNX operators behind them.

Letters: R rows of a step, S positions of a call, B pictures, n positions of a choice, O logits of a position, V of
these that are drawn from.

The graph gets the inputs `noise` (B, n, V), which also says how many of each there are, `guidance` (), `temperature`
(), `top_k` (1,) and `top_p` (), and the output `drawn` (B, n) int64. A masked model that keeps the surest has the
output `sureness` (B, n) too. Logits remain an output, for scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.builder import Builder, drop_unused_initializers
from export.onnx_model import OnnxModel
from export.sampling import Sampler
from export.shape import Shape

SCOPE = "sampling"
SAMPLING_INPUTS = ("noise", "guidance", "temperature", "top_k", "top_p")
SAMPLING_OUTPUTS = ("drawn", "sureness")
FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
LARGEST = np.iinfo(np.int64).max


def with_sampling(model: OnnxModel) -> OnnxModel:
    """A copy of a model whose decode graph chooses tokens too."""
    decode, manifest = model.decode.clone(), model.manifest
    add_sampling(decode.graph, manifest.shape, manifest.sampler)
    return replace(model, decode=decode, manifest=replace(manifest, sampling=True))


def without_sampling(decode: ir.Model) -> ir.Model:
    """A copy of a decode graph that only makes logits."""
    copy = decode.clone()
    for output in [each for each in copy.graph.outputs if each.name in SAMPLING_OUTPUTS]:
        copy.graph.outputs.remove(output)
    added = [node for node in copy.graph if (node.name or "").startswith(f"/{SCOPE}/")]
    for node in added:
        branches = [each for attribute in node.attributes.values() for each in subgraph(attribute)]
        for reader in (*branches, node):  # what is gone reads nothing any more
            for index in range(len(reader.inputs)):
                reader.replace_input_with(index, None)
    copy.graph.remove(added)
    for each in [each for each in copy.graph.inputs if each.name in SAMPLING_INPUTS]:
        copy.graph.inputs.remove(each)
    drop_unused_initializers(copy.graph)
    return copy


def subgraph(attribute: ir.Attr) -> list[ir.Node]:
    """The nodes of a branch."""
    return list(attribute.as_graph()) if attribute.type == ir.AttributeType.GRAPH else []


def add_sampling(graph: ir.Graph, shape: Shape, sampler: Sampler) -> None:
    """Append sampling to a decode graph, in place."""
    noise = value("noise", FLOAT, ["pictures", "chosen", "drawn_from"])
    guidance, temperature, top_p = (value(name, FLOAT, []) for name in ("guidance", "temperature", "top_p"))
    top_k = value("top_k", INT64, [1])
    graph.inputs.extend([noise, guidance, temperature, top_k, top_p])
    logits = next(each for each in graph.outputs if each.name == "logits")
    builder = Builder(graph, None, SCOPE)
    guided = add_guidance(builder, logits, noise, guidance, last=shape.order == "causal")
    scores = builder.add("Div", [guided, temperature], "tempered")
    scores = keep_likeliest(builder, scores, top_k)
    scores = keep_nucleus(builder, scores, top_p)
    drawn = builder.add("ArgMax", [builder.add("Add", [scores, noise], "disturbed")], "drawn", axis=-1, keepdims=0)
    named(graph, drawn, "drawn", INT64)
    if shape.order == "masked" and sampler.reveal != "halton":
        token = builder.add("Unsqueeze", [drawn, numbers(builder, "last", -1)], "token")
        by_logit = sampler.reveal == "logit"
        sureness = builder.add("GatherElements", [guided if by_logit else scores, token], "of_token", axis=-1)
        if not by_logit:
            total = builder.add("ReduceLogSumExp", [scores, numbers(builder, "last", -1)], "total", keepdims=1)
            sureness = builder.add("Sub", [sureness, total], "log_probability")
        sureness = builder.add("Squeeze", [sureness, numbers(builder, "last", -1)], "sureness")
        named(graph, sureness, "sureness", FLOAT)


def value(name: str, kind: ir.TensorType, dimensions: Sequence[int | str]) -> ir.Value:
    """An input."""
    return ir.Value(name=name, type=kind, shape=ir.Shape(list(dimensions)))


def named(graph: ir.Graph, made: ir.Value, name: str, kind: ir.TensorType) -> None:
    """Make a value (B, n) an output."""
    made.name, made.type, made.shape = name, kind, ir.Shape(["pictures", "chosen"])
    graph.outputs.append(made)


def numbers(builder: Builder, name: str, *values: int) -> ir.Value:
    """A constant (n,) of whole numbers, made once."""
    full = f"{builder.scope}.{name}"
    return builder.graph.initializers.get(full) or builder.initializer(name, np.array(values, dtype=np.int64))


def add_guidance(builder: Builder, logits: ir.Value, noise: ir.Value, guidance: ir.Value, *, last: bool) -> ir.Value:
    """null + guidance * (given - null), with the last B rows as null; without guidance these are all rows (B, n, V)."""
    pictures = builder.add("Shape", [noise], "pictures", start=0, end=1)
    outputs = builder.add("Shape", [noise], "outputs", start=2, end=3)
    first, end = numbers(builder, "zero", 0), numbers(builder, "end", LARGEST)
    axes = numbers(builder, "axes", 0, 1, 2)
    position = numbers(builder, "last", -1) if last else first
    position_end = end if last else builder.add("Shape", [noise], "positions", start=1, end=2)

    def part(name: str, start: ir.Value, stop: ir.Value) -> ir.Value:
        starts = builder.add("Concat", [start, position, first], f"{name}_starts", axis=0)
        ends = builder.add("Concat", [stop, position_end, outputs], f"{name}_ends", axis=0)
        return builder.add("Slice", [logits, starts, ends, axes], name)

    given = part("given", first, pictures)
    null = part("null", builder.add("Neg", [pictures], "from_the_end"), end)
    apart = builder.add("Sub", [given, null], "apart")
    return builder.add("Add", [null, builder.add("Mul", [apart, guidance], "stretched")], "guided")


def keep_likeliest(builder: Builder, scores: ir.Value, top_k: ir.Value) -> ir.Value:
    """Scores with all below the k-th largest at minus infinity, where k is above 0."""

    def floor(inner: Builder) -> ir.Value:
        width = inner.add("Shape", [scores], "width", start=2, end=3)
        count = inner.add("Min", [top_k, width], "count")
        largest, _ = inner.node("TopK", [scores, count], outputs=2, attributes={"axis": -1, "sorted": 0})
        return inner.add("ReduceMin", [largest, numbers(builder, "last", -1)], "floor", keepdims=1)

    lowest = builder.initializer("lowest", np.full((1, 1, 1), -np.inf, dtype=np.float32))
    asked = builder.add("Greater", [top_k, numbers(builder, "zero", 0)], "cut")
    limit = choice(builder, "top_k", asked, floor, lambda inner: inner.add("Identity", [lowest], "none"))
    return builder.add("Where", [builder.add("Less", [scores, limit], "below"), lowest, scores], "likeliest")


def keep_nucleus(builder: Builder, scores: ir.Value, top_p: ir.Value) -> ir.Value:
    """Scores with all outside the smallest set of likeliest tokens that holds `top_p` at minus infinity, if below 1."""
    last = numbers(builder, "last", -1)
    lowest = builder.graph.initializers[f"{builder.scope}.lowest"]

    def nucleus(inner: Builder) -> ir.Value:
        width = inner.add("Shape", [scores], "width", start=2, end=3)
        ranked, order = inner.node("TopK", [scores, width], outputs=2, attributes={"axis": -1})
        top = inner.add("ReduceMax", [ranked, last], "top", keepdims=1)
        weight = inner.add("Exp", [inner.add("Sub", [ranked, top], "below_top")], "weight")
        summed = inner.add("CumSum", [weight, numbers(builder, "axis", -1)], "summed")
        held = inner.add("Sub", [summed, weight], "held_by_likelier")
        total = inner.add("ReduceSum", [weight, last], "total", keepdims=1)
        kept = inner.add("Less", [held, inner.add("Mul", [total, top_p], "share")], "kept")
        cut = inner.add("Where", [kept, ranked, lowest], "cut")
        return inner.add("ScatterElements", [scores, order, cut], "nucleus", axis=-1)

    one = builder.initializer("one", np.array(1, dtype=np.float32))
    asked = builder.add("Less", [top_p, one], "cut_nucleus")
    return choice(builder, "top_p", asked, nucleus, lambda inner: inner.add("Identity", [scores], "all"))


def choice(
    builder: Builder,
    name: str,
    asked: ir.Value,
    then: Callable[[Builder], ir.Value],
    otherwise: Callable[[Builder], ir.Value],
) -> ir.Value:
    """If `asked`, what one builder makes, else what the other one does; both may read values from outside."""
    branches = {}
    for branch, make in (("then_branch", then), ("else_branch", otherwise)):
        graph = ir.Graph([], [], nodes=[], opset_imports=builder.graph.opset_imports, name=f"{name}_{branch}")
        made = make(Builder(graph, None, f"{builder.scope}.{name}.{branch}"))
        made.type = FLOAT
        graph.outputs.append(made)
        branches[branch] = graph
    result, *_ = builder.node("If", [asked], f"{name}_if", attributes=branches)
    result.type = FLOAT
    return result
