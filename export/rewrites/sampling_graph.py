"""Sampling inside the decode graph: what `export.runtime.choosing` does with a step's logits, as ONNX operators.

Letters: R rows of a step, S positions of a call, B pictures, n positions of a choice, O logits of a position, V of
these that are drawn from.

The graph gets the inputs `noise` (B, n, V), which also says how many pictures there are, `guidance` (), `temperature`
(), and the limits of its sampler's cuts (`export.runtime.cuts`). It gets the output `drawn` (B, n) int64, and of a
masked model that keeps the surest `sureness` (B, n) too. Logits remain an output, for scoring; of a drawing only their
sums `total` (R, n) are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graph.builder import Builder, drop_unused_initializers, tensor_type
from export.graph.onnx_model import OnnxModel
from export.runtime.cuts import CUTS, TopK
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape
from export.runtime.signature import CHOSEN, SAMPLING, TOTALS, Port, Ports, choice_ports, chosen_ports

SCOPE = "sampling"
FLOAT, INT64 = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)
LARGEST = np.iinfo(np.int64).max
TRIED = 4  # the likeliest after noise that are looked at first; a trained model's first is among its k nearly always


def with_sampling(model: OnnxModel, *, branches: bool = True) -> OnnxModel:
    """A copy of a model whose decode graph chooses tokens too; without `branches` a GPU can capture a step of it."""
    decode, manifest = model.decode.clone(), model.manifest
    add_sampling(decode.graph, manifest.shape, manifest.sampler, branches=branches)
    return replace(model, decode=decode, manifest=replace(manifest, sampling=True))


def without_sampling(decode: ir.Model) -> ir.Model:
    """A copy of a decode graph that only makes logits."""
    copy = decode.clone()
    for output in [each for each in copy.graph.outputs if each.name in CHOSEN]:
        copy.graph.outputs.remove(output)
    added = [node for node in copy.graph if (node.name or "").startswith(f"/{SCOPE}/")]
    for node in added:
        branches = [each for attribute in node.attributes.values() for each in subgraph(attribute)]
        for reader in (*branches, node):  # what is gone reads nothing any more
            for index in range(len(reader.inputs)):
                reader.replace_input_with(index, None)
    copy.graph.remove(added)
    for each in [each for each in copy.graph.inputs if each.name in SAMPLING]:
        copy.graph.inputs.remove(each)
    drop_unused_initializers(copy.graph)
    return copy


def subgraph(attribute: ir.Attr) -> list[ir.Node]:
    """The nodes of a branch."""
    return list(attribute.as_graph()) if attribute.type == ir.AttributeType.GRAPH else []


def add_sampling(graph: ir.Graph, shape: Shape, sampler: Sampler, *, branches: bool = True) -> None:
    """Append sampling to a decode graph, in place.

    With `branches`, top-k is mostly done without looking for the k-th largest logit, which a processor does slowly. A
    step that a GPU captures can have neither the If that this takes nor arithmetic with whole numbers, which the CPU
    would do.
    """
    gives = chosen_ports(shape, sampler)
    surest = "sureness" in gives
    # Where the surest stay, a position that drew the mask token would count as open again.
    drawn_from = shape.vocabulary if surest else shape.predicted
    fed = {name: value(name, port) for name, port in choice_ports(sampler).items()}
    graph.inputs.extend(fed.values())
    noise, cuts = fed["noise"], [cut for cut in CUTS if cut.name in fed]
    builder = Builder(graph, None, SCOPE)
    logits = next(each for each in graph.outputs if each.name == "logits")
    if shape.drawing.sequential:
        logits = sliced(builder, logits, "behind", 1, first=-1)
    else:  # while scoring there is noise for one position only
        logits = sliced(builder, logits, "chosen", 1, end=builder.add("Shape", [noise], "positions", start=1, end=2))
    summed = builder.add("ReduceSum", [logits, builder.numbers("last", -1)], "summed_logits", keepdims=0)
    named(graph, summed, TOTALS, gives)
    if drawn_from != shape.predicted:
        logits = sliced(builder, logits, "tokens", 2, end=drawn_from)
    pictures = builder.add("Shape", [noise], "pictures", start=0, end=1)
    null = last_rows(builder, logits, pictures) if branches else last_rows_by_turning(builder, logits, pictures)
    guided = add_guidance(builder, sliced(builder, logits, "given", 0, end=pictures), null, fed["guidance"])
    scores = builder.add("Div", [guided, fed["temperature"]], "tempered")
    if branches and [cut.name for cut in cuts] == [TopK.name] and shape.drawing.sequential:
        drawn = drawn_among_likeliest(builder, scores, noise, fed[TopK.name])
    else:
        for cut in cuts:
            scores = cut.keep_in_graph(builder, scores, fed[cut.name])
        drawn = builder.add("ArgMax", [builder.add("Add", [scores, noise], "disturbed")], "drawn", axis=-1, keepdims=0)
    named(graph, drawn, "drawn", gives)
    if surest:
        token = builder.add("Unsqueeze", [drawn, builder.numbers("last", -1)], "token")
        by_logit = sampler.reveal == "logit"
        sureness = builder.add("GatherElements", [guided if by_logit else scores, token], "of_token", axis=-1)
        if not by_logit:
            total = builder.add("ReduceLogSumExp", [scores, builder.numbers("last", -1)], "total", keepdims=1)
            sureness = builder.add("Sub", [sureness, total], "log_probability")
        sureness = builder.add("Squeeze", [sureness, builder.numbers("last", -1)], "sureness")
        named(graph, sureness, "sureness", gives)


def value(name: str, port: Port) -> ir.Value:
    """An input."""
    return ir.Value(name=name, type=tensor_type(port.kind), shape=ir.Shape(list(port.sizes)))


def named(graph: ir.Graph, made: ir.Value, name: str, ports: Ports) -> None:
    """Make a value (B, n) an output."""
    said = value(name, ports[name])
    made.name, made.type, made.shape = name, said.type, said.shape
    graph.outputs.append(made)


def sliced(
    builder: Builder,
    given: ir.Value,
    name: str,
    axis: int,
    *,
    first: int | ir.Value = 0,
    end: int | ir.Value = LARGEST,
    step: int = 1,
) -> ir.Value:
    """The part of a value from one index of an axis to another."""
    bounds = [
        each if isinstance(each, ir.Value) else builder.numbers(f"{name}_{side}", each)
        for side, each in (("first", first), ("end", end))
    ]
    steps = [] if step == 1 else [builder.numbers(f"{name}_step", step)]
    return builder.add("Slice", [given, *bounds, builder.numbers(f"axis_{axis}", axis), *steps], name)


def last_rows(builder: Builder, logits: ir.Value, pictures: ir.Value) -> ir.Value:
    """The last rows (B, n, V) of all (R, n, V), as many as there are pictures (1,)."""
    return sliced(builder, logits, "null", 0, first=builder.add("Neg", [pictures], "from_the_end"))


def last_rows_by_turning(builder: Builder, logits: ir.Value, pictures: ir.Value) -> ir.Value:
    """The same without computing an index: the first rows of all in the opposite order."""
    turned = sliced(builder, logits, "turned", 0, first=-1, end=-LARGEST, step=-1)
    wanted = sliced(builder, turned, "wanted", 0, end=pictures)
    return sliced(builder, wanted, "null", 0, first=-1, end=-LARGEST, step=-1)


def add_guidance(builder: Builder, given: ir.Value, null: ir.Value, guidance: ir.Value) -> ir.Value:
    """null + guidance * (given - null), all (B, n, V); without guidance both are all rows."""
    apart = builder.add("Sub", [given, null], "apart")
    return builder.add("Add", [null, builder.add("Mul", [apart, guidance], "stretched")], "guided")


def drawn_among_likeliest(builder: Builder, scores: ir.Value, noise: ir.Value, top_k: ir.Value) -> ir.Value:
    """What `TopK` and noise would draw (B, n), mostly without looking for the k-th largest score.

    The first after noise is drawn if fewer than k scores are above its own, else the second, and so on: that is the
    likeliest after noise among the k. Only where all `TRIED` are out, the k-th largest is found.
    """
    last = builder.numbers("last", -1)
    disturbed = builder.add("Add", [scores, noise], "disturbed")
    tried = builder.numbers("tried", TRIED)
    _, first = builder.node("TopK", [disturbed, tried], "first", outputs=2, attributes={"axis": -1})
    own = builder.add("GatherElements", [scores, first], "own_score", axis=-1)  # (B, n, TRIED)
    each = builder.add("Unsqueeze", [own, last], "each")
    others = builder.add("Unsqueeze", [scores, builder.numbers("before_last", -2)], "others")
    above = builder.add("Cast", [builder.add("Greater", [others, each], "above")], "counted", to=int(FLOAT.dtype))
    rank = builder.add("ReduceSum", [above, last], "rank", keepdims=0)  # (B, n, TRIED)
    limit = builder.add("Cast", [top_k], "limit", to=int(FLOAT.dtype))
    kept = builder.add("Cast", [builder.add("Less", [rank, limit], "kept")], "kept_number", to=int(FLOAT.dtype))
    found = builder.add("ReduceMin", [builder.add("ReduceMax", [kept, last], "any", keepdims=0)], "all", keepdims=0)
    condition = builder.add("Cast", [found], "found", to=int(ir.DataType.BOOL))

    def among_tried(inner: Builder) -> ir.Value:
        place = inner.add("ArgMax", [kept], "place", axis=-1, keepdims=1)
        token = inner.add("GatherElements", [first, place], "token", axis=-1)
        return inner.add("Squeeze", [token, last], "drawn")

    def among_all(inner: Builder) -> ir.Value:
        cut = TopK().keep_in_graph(inner, scores, top_k)
        return inner.add("ArgMax", [inner.add("Add", [cut, noise], "disturbed")], "drawn", axis=-1, keepdims=0)

    return choice(builder, "among", condition, among_tried, among_all)


def choice(
    builder: Builder,
    name: str,
    condition: ir.Value,
    then: Callable[[Builder], ir.Value],
    otherwise: Callable[[Builder], ir.Value],
) -> ir.Value:
    """If `asked`, what one builder makes, else what the other one does; both may read values from outside."""
    branches = {}
    for branch, make in (("then_branch", then), ("else_branch", otherwise)):
        graph = ir.Graph([], [], nodes=[], opset_imports=builder.graph.opset_imports, name=f"{name}_{branch}")
        made = make(Builder(graph, None, f"{builder.scope}.{name}.{branch}"))
        made.type = INT64
        graph.outputs.append(made)
        branches[branch] = graph
    result, *_ = builder.node("If", [condition], f"{name}_if", attributes=branches)
    result.type = INT64
    return result
