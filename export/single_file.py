"""The whole generation as one graph: labels and a seed in, tokens and pictures out.

Letters: B pictures, R rows of a step, T tokens of a picture, n positions of a step, V logits that are drawn from, Z
latent width, P x C features of a text, N steps.

Inputs are `labels` (B,) int64, `seed` () int64 and, of a text model, `features` (B, P, C); outputs are `tokens` (B, T)
and `images` (B, H, W, 3) uint8. The sampler is the engine's own, written into the graph. A Loop runs the decode graph,
sampling included, and carries the cache: ONNX Runtime copies it at every step, so this is the handy form, not the
fastest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.builder import Builder
from export.noise_graph import GraphNoise
from export.onnx_model import IR_VERSION, OnnxModel
from export.sampling import Sampler, halton_order, steps_in_order, steps_surest
from export.sampling_graph import with_sampling
from export.shape import Shape

TITLE = "generate"
FLOAT, INT64, INT32 = (ir.TensorType(getattr(ir.DataType, name)) for name in ("FLOAT", "INT64", "INT32"))


@dataclass(frozen=True)
class Steps:
    """What is known of every step (N,) before anything is drawn."""

    guidance: NDArray[np.float32]
    temperature: NDArray[np.float32]
    noisy: NDArray[np.float32]  # 0 where the likeliest is taken
    start: NDArray[np.int64]  # of the scale's tokens, or of the revealed positions in their order
    end: NDArray[np.int64]
    disturbance: NDArray[np.float32]  # of how sure the tokens of a masked model are
    hidden: NDArray[np.int64]  # positions that are masked again

    @classmethod
    def of(cls, shape: Shape, sampler: Sampler) -> Steps:
        """The steps of a whole picture."""
        disturbance, hidden, numbers = [0.0], [0], [0]
        if shape.order == "causal":
            count = shape.length
            numbers = list(range(count))
            start, end = np.arange(count), np.arange(count) + 1
        elif shape.order == "next-scale":
            count = len(shape.scales)
            numbers = list(range(count))
            end = np.cumsum(np.square(shape.scales))
            start = end - np.square(shape.scales)
        else:
            count = sampler.steps
            if sampler.reveal == "halton":
                numbers, ends = zip(*steps_in_order(sampler, shape.length), strict=True)
                end = np.array(ends)
                start = np.concatenate([[0], end[:-1]])
            else:
                numbers, hidden = zip(*steps_surest(sampler, shape.length), strict=True)
                start, end = np.zeros(len(numbers)), np.full(len(numbers), shape.length)
                disturbance = [sampler.choice_at(number, count) for number in numbers]
        temperature = [sampler.temperature_at(number, count) for number in numbers]
        if shape.order == "masked" and sampler.reveal == "logit":
            temperature = list(disturbance)
        return cls(
            np.array([sampler.scale_at(number, count) for number in numbers], dtype=np.float32),
            np.array([each or 1.0 for each in temperature], dtype=np.float32),
            np.array([each > 0 for each in temperature], dtype=np.float32),
            start.astype(np.int64),
            end.astype(np.int64),
            np.resize(np.array(disturbance, dtype=np.float32), len(numbers)),
            np.resize(np.array(hidden, dtype=np.int64), len(numbers)),
        )


@dataclass
class Body:
    """The body of the Loop while it is written: what it carries, and what it makes of that."""

    graph: ir.Graph
    builder: Builder
    given: dict[str, ir.Value]  # carried values as the body gets them
    first: dict[str, ir.Value]  # and as they are before the first step
    made: dict[str, ir.Value] = field(default_factory=dict)


def single_file(model: OnnxModel) -> ir.Model:
    """One graph of a model for `onnxruntime` or `standard`; the model stays as it is."""
    model = model if model.manifest.sampling else with_sampling(model)
    manifest, shape, sampler = model.manifest, model.manifest.shape, model.manifest.sampler
    outer = ir.Graph([], [], nodes=[], opset_imports={}, name=TITLE)
    build = Builder(outer, None, TITLE)
    labels = fed(outer, "labels", INT64, ["pictures"])
    seed = fed(outer, "seed", INT64, [])
    features = None
    if shape.text:
        features = fed(outer, "features", FLOAT, ["pictures", shape.text.length, shape.text.width])
    pictures = build.add("Shape", [labels], "pictures")
    noise = GraphNoise(Builder(outer, None, "noise"), seed, pictures)
    known: dict[str, ir.Value] = {"labels": labels}
    if features is not None:
        known["features"] = features
    if sampler.guided:
        null = build.add("Expand", [constant(build, "null", shape.null_class), pictures], "null_rows")
        known["labels"] = build.add("Concat", [labels, null], "rows", axis=0)
        if features is not None:
            known["features"] = build.add("Concat", [features, features], "row_features", axis=0)
    if features is not None:
        zero = build.initializer("zero_feature", np.array(0, dtype=np.float32))
        present = build.add("Cast", [build.add("Abs", [known["features"]], "sizes")], "weights", to=int(FLOAT.dtype))
        largest = build.add("ReduceMax", [present, constant(build, "last", [-1])], "largest", keepdims=0)
        known["valid"] = build.add("Greater", [largest, zero], "valid")
    if (begin := getattr(model, 'begin', None)) is not None:
        known |= inlined(outer, begin, "begin", known)
    steps = Steps.of(shape, sampler)
    tokens = add_loop(outer, build, model, noise, known, steps, pictures)
    images = inlined(outer, model.image_decoder, "image_decoder", {"tokens": tokens})["images"]
    finish(outer, tokens, "tokens", ["pictures", shape.length])
    outer.outputs.append(images)
    images.name = "images"
    made = ir.Model(outer, ir_version=IR_VERSION, producer_name="compress")
    made.opset_imports.update(outer.opset_imports)
    assert manifest.cache != "static"
    return made


def add_loop(
    outer: ir.Graph,
    build: Builder,
    model: OnnxModel,
    noise: GraphNoise,
    known: dict[str, ir.Value],
    steps: Steps,
    pictures: ir.Value,
) -> ir.Value:
    """Tokens (B, T) that the Loop draws."""
    shape, sampler = model.manifest.shape, model.manifest.sampler
    step, going = fed(None, "step", INT64, []), fed(None, "going", ir.TensorType(ir.DataType.BOOL), [])
    graph = ir.Graph([step, going], [], nodes=[], opset_imports=outer.opset_imports, name="step")
    inner = Builder(graph, None, "step")
    body = Body(graph, inner, {}, before(build, model, known, pictures))
    for name, value in body.first.items():
        body.given[name] = fed(graph, f"carried.{name}", value.type or INT64, None)

    def at(name: str, values: NDArray) -> ir.Value:
        return inner.add("Gather", [build.initializer(name, values), step], f"{name}_now", axis=0)

    outputs = shape.vocabulary if shape.order == "masked" and sampler.reveal != "halton" else shape.predicted
    start, end = at("start", steps.start), at("end", steps.end)
    count = inner.add("Sub", [end, start], "positions_count")
    number = at("number", np.arange(len(steps.start))) if shape.order != "masked" else at("number", numbers_of(sampler, shape))
    drawn_from = constant(build, "drawn_from", outputs)
    disturbed = noise.gumbel(
        Builder(graph, None, "step/noise"), number, inner.add("Mul", [count, drawn_from], "noise_count")
    )
    new_shape = inner.add(
        "Concat",
        [pictures, inner.add("Unsqueeze", [count, constant(build, "front", [0])], "count_1"), constant(build, "each", [outputs])],
        "noise_shape",
        axis=0,
    )
    shaped = inner.add("Reshape", [disturbed, new_shape], "noise")
    feeds = dict(known)
    feeds |= {
        "noise": inner.add("Mul", [shaped, at("noisy", steps.noisy)], "noise_or_none"),
        "guidance": at("guidance", steps.guidance),
        "temperature": at("temperature", steps.temperature),
        "top_k": constant(build, "top_k", [sampler.top_k if sampler.temperature or sampler.reveal == "logit" else 0]),
        "top_p": build.initializer("top_p", np.array(sampler.top_p if sampler.temperature else 1.0, dtype=np.float32)),
    }
    orders = {"causal": causal_step, "masked": masked_step, "next-scale": scale_step}
    orders[shape.order](body, outer, build, model, feeds, (start, end), steps, noise, number)
    carried = [*body.given]
    kept = inner.add("Identity", [going], "go_on")
    for value in (kept, *(body.made[name] for name in carried)):
        graph.outputs.append(value)
    kept.type, kept.shape = going.type, ir.Shape([])
    scanned = shape.order == "causal"
    if scanned:
        drawn = inner.add("Squeeze", [body.made["drawn"], constant(build, "second", [1])], "drawn_token")
        drawn.type, drawn.shape = INT64, ir.Shape(["pictures"])
        graph.outputs.append(drawn)
    trips = constant(build, "trips", len(steps.start))
    yes = build.initializer("yes", np.array(True))
    results = build.node(
        "Loop",
        [trips, yes, *(body.first[name] for name in carried)],
        outputs=len(carried) + scanned,
        attributes={"body": graph},
    )
    if scanned:
        return build.add("Transpose", [results[-1]], "in_rows", perm=[1, 0])
    result = results[carried.index("drawn")]
    if shape.order == "masked":
        result = build.add("Min", [result, constant(build, "largest_token", shape.vocabulary - 1)], "no_mask")
    return result


def numbers_of(sampler: Sampler, shape: Shape) -> NDArray[np.int64]:
    """The numbers of the steps of a masked model that reveal something."""
    made = steps_in_order if sampler.reveal == "halton" else steps_surest
    return np.array([number for number, _ in made(sampler, shape.length)])


def before(
    build: Builder, model: OnnxModel, known: dict[str, ir.Value], pictures: ir.Value
) -> dict[str, ir.Value]:
    """What the Loop carries, as it is before the first step."""
    manifest, shape = model.manifest, model.manifest.shape
    rows = build.add("Shape", [known["labels"]], "row_count")
    first: dict[str, ir.Value] = {}
    if shape.order == "masked":
        size = build.add("Concat", [pictures, constant(build, "length", [shape.length])], "picture_shape", axis=0)
        first["drawn"] = build.add("Expand", [constant(build, "mask", shape.mask_token), size], "all_masked")
    elif shape.order == "next-scale":
        size = build.add("Concat", [pictures, constant(build, "length", [shape.length])], "picture_shape", axis=0)
        first["drawn"] = build.add("Expand", [constant(build, "nothing", 0), size], "nothing_drawn")
        latents = build.add("Concat", [rows, constant(build, "latent", [1, shape.latent_width])], "latent_shape", axis=0)
        first["tokens"] = typed(
            build.add("Expand", [build.initializer("no_latent", np.array(0, dtype=np.float32)), latents], "no_latents"),
            FLOAT,
        )
    else:
        column = constant(build, "column", [-1])
        if shape.text:
            none = build.add("Concat", [rows, constant(build, "none", [0])], "no_shape", axis=0)
            first["tokens"] = build.add("Expand", [constant(build, "nothing", 0), none], "no_tokens")
            first["features"] = typed(build.add("Identity", [known["features"]], "first_features"), FLOAT)
        else:
            ids = build.add("Add", [known["labels"], constant(build, "first_class", shape.first_class)], "class_ids")
            parts = [build.add("Unsqueeze", [ids, column], "class_column")]
            if shape.lead:
                size = build.add("Concat", [rows, constant(build, "lead", [shape.lead])], "lead_shape", axis=0)
                start = constant(build, "start_token", shape.start_token)
                parts.insert(0, build.add("Expand", [start, size], "start_tokens"))
            first["tokens"] = build.add("Concat", parts, "opening", axis=1)
        if manifest.cache == "shared":
            first["position"] = build.add("Identity", [constant(build, "beginning", 0)], "first_position")
    cached = shape.reach if manifest.cache == "shared" else 0
    for layer, heads in enumerate(manifest.kv_heads):
        sizes = constant(build, f"cache_{layer}", [heads, cached, manifest.head_width])
        size = build.add("Concat", [rows, sizes], f"cache_shape_{layer}", axis=0)
        for part in ("key", "value"):
            empty = build.initializer("empty", np.array(0, dtype=np.float32))
            first[f"past.{layer}.{part}"] = typed(build.add("Expand", [empty, size], f"empty_{layer}_{part}"), FLOAT)
    return first


def run_decode(body: Body, outer: ir.Graph, model: OnnxModel, feeds: dict[str, ir.Value]) -> dict[str, ir.Value]:
    """One step of the decode graph inside the body; the longer cache is carried on."""
    caches = {name: value for name, value in body.given.items() if name.startswith("past.")}
    made = inlined(body.graph, model.decode, "decode", feeds | caches, outer)
    for name in caches:
        body.made[name] = made[name.replace("past.", "present.")]
    return made


def causal_step(body, outer, build, model, feeds, bounds, steps, noise, number) -> None:  # type: ignore[no-untyped-def]
    """Token by token; the first call reads what stands before the first token."""
    shape, inner = model.manifest.shape, body.builder
    tokens = body.given["tokens"]
    feeds = feeds | {"tokens": tokens}
    read = inner.add("Shape", [tokens], "read", start=1, end=2)
    if shape.text:
        feeds["features"] = body.given["features"]
        read = inner.add("Add", [read, inner.add("Shape", [feeds["features"]], "text", start=1, end=2)], "read_in_all")
    if model.manifest.cache == "shared":
        total = inner.add("Add", [body.given["position"], inner.add("Squeeze", [read], "read_count")], "total")
        body.made["position"] = typed(total, INT64, [])
        last = inner.add("Sub", [total, constant(build, "one", 1)], "last")
        last_32 = inner.add("Cast", [last], "last_32", to=int(INT32.dtype))
        feeds["seqlens_k"] = inner.add("Expand", [last_32, inner.add("Shape", [tokens], "rows", start=0, end=1)], "ends")
        feeds["total_sequence_length"] = inner.add("Cast", [total], "total_32", to=int(INT32.dtype))
    drawn = run_decode(body, outer, model, feeds)["drawn"]
    body.made["drawn"] = drawn
    body.made["tokens"] = typed(rows_of(inner, model, drawn, "next_tokens"), INT64, ["rows", "next"])
    if shape.text:
        none = constant(build, "none", [0])
        cut = inner.add("Slice", [feeds["features"], none, none, constant(build, "second", [1])], "no_features")
        body.made["features"] = typed(cut, FLOAT)


def scale_step(body, outer, build, model, feeds, bounds, steps, noise, number) -> None:  # type: ignore[no-untyped-def]
    """Scale by scale; what the next one reads comes from the tokens so far."""
    inner, (start, end) = body.builder, bounds
    front, second = constant(build, "front", [0]), constant(build, "second", [1])
    drawn = run_decode(body, outer, model, feeds | {"tokens": body.given["tokens"]})["drawn"]
    places = inner.add("Range", [start, end, constant(build, "one", 1)], "places")
    tokens = placed(inner, body.given["drawn"], drawn, places, build)
    body.made["drawn"] = typed(tokens, INT64)
    assert model.scales is not None
    latents = inlined(
        body.graph, model.scales, "scales", {"tokens": rows_of(inner, model, tokens, "row_tokens")}, outer
    )["latents"]
    ends = np.append(steps.end[1:], steps.end[-1])  # behind the last scale nothing is read
    next_end = inner.add("Gather", [build.initializer("next_end", ends), body.graph.inputs[0]], "next_end_now", axis=0)
    one = constant(build, "one", 1)
    bounds = [
        inner.add("Unsqueeze", [inner.add("Sub", [each, one], f"{name}_latent"), front], f"{name}_latent_1")
        for name, each in (("first", end), ("end", next_end))
    ]
    body.made["tokens"] = typed(inner.add("Slice", [latents, *bounds, second], "next_latents"), FLOAT)


def masked_step(body, outer, build, model, feeds, bounds, steps, noise, number) -> None:  # type: ignore[no-untyped-def]
    """Mask by mask; the surest stay, or positions are revealed in their order."""
    shape, sampler, inner = model.manifest.shape, model.manifest.sampler, body.builder
    tokens, (start, end) = body.given["drawn"], bounds
    by_order = sampler.reveal == "halton"
    order = halton_order(shape.grid) if by_order else np.arange(shape.length)
    places = inner.add("Range", [start, end, constant(build, "one", 1)], "numbers")
    positions = inner.add("Gather", [build.initializer("order", order), places], "positions", axis=0)
    feeds = feeds | {"tokens": rows_of(inner, model, tokens, "row_tokens"), "positions": positions}
    made = run_decode(body, outer, model, feeds)
    if by_order:
        body.made["drawn"] = typed(placed(inner, tokens, made["drawn"], positions, build), INT64)
        return
    mask = constant(build, "mask", shape.mask_token)
    unknown = inner.add("Equal", [tokens, mask], "unknown")
    drawn = inner.add("Where", [unknown, made["drawn"], tokens], "all_drawn")
    disturbance, hidden = (
        inner.add("Gather", [build.initializer(name, values), body.graph.inputs[0]], f"{name}_now", axis=0)
        for name, values in (("disturbance", steps.disturbance), ("hidden", steps.hidden))
    )
    extra = noise.gumbel(Builder(body.graph, None, "step/places"), number, constant(build, "places", shape.length), "place")
    sureness = inner.add("Add", [made["sureness"], inner.add("Mul", [extra, disturbance], "nudge")], "disturbed")
    certain = build.initializer("certain", np.array(np.inf, dtype=np.float32))
    sureness = inner.add("Where", [unknown, sureness, certain], "sureness_of_unknown")
    count = inner.add("Unsqueeze", [hidden, constant(build, "front", [0])], "hidden_1")
    _, least = inner.node("TopK", [sureness, count], outputs=2, attributes={"axis": -1, "largest": 0})
    size = inner.add("Shape", [least], "least_shape")
    again = inner.add("Expand", [mask, size], "masked_again")
    body.made["drawn"] = typed(inner.add("ScatterElements", [drawn, least, again], "kept", axis=1), INT64)


def placed(inner: Builder, tokens: ir.Value, drawn: ir.Value, places: ir.Value, build: Builder) -> ir.Value:
    """Tokens (B, T) with those drawn (B, n) at places (n,)."""
    where = inner.add("Expand", [places, inner.add("Shape", [drawn], "drawn_shape")], "where")
    return inner.add("ScatterElements", [tokens, where, drawn], "placed", axis=1)


def rows_of(inner: Builder, model: OnnxModel, tokens: ir.Value, name: str) -> ir.Value:
    """Tokens (B, ...) for every row of a step."""
    if not model.manifest.sampler.guided:
        return inner.add("Identity", [tokens], name)
    return inner.add("Concat", [tokens, tokens], name, axis=0)


def inlined(
    graph: ir.Graph, model: ir.Model, prefix: str, feeds: dict[str, ir.Value], outer: ir.Graph | None = None
) -> dict[str, ir.Value]:
    """Append a copy of a model's nodes to a graph, fed with these values; its outputs by name.

    Constants go to the outermost graph.
    """
    outer = outer or graph
    part = model.clone().graph
    outputs = {value.name or "": value for value in part.outputs}
    for value in list(part.inputs):
        ir.convenience.replace_all_uses_with(value, feeds[value.name or ""])
    for name, value in list(part.initializers.items()):
        part.initializers.pop(name)
        value.name = f"{prefix}.{name}"
        outer.register_initializer(value)
    for node in part.all_nodes():
        node.name = f"/{prefix}{node.name}"
        for value in node.outputs:
            value.name = f"{prefix}/{value.name}"
    part.outputs.clear()
    nodes = list(part)
    part.remove(nodes)
    graph.extend(nodes)
    for domain, version in part.opset_imports.items():
        outer.opset_imports[domain] = max(version or 1, outer.opset_imports.get(domain) or 1)
    return outputs


def constant(build: Builder, name: str, value: int | Sequence[int]) -> ir.Value:
    """A constant of whole numbers of the outermost graph, made once."""
    full = f"{build.scope}.{name}"
    return build.graph.initializers.get(full) or build.initializer(name, np.array(value, dtype=np.int64))


def fed(graph: ir.Graph | None, name: str, kind: ir.TypeProtocol, dimensions: Sequence[int | str] | None) -> ir.Value:
    """An input."""
    shape = None if dimensions is None else ir.Shape(list(dimensions))
    value = ir.Value(name=name, type=kind, shape=shape)
    if graph is not None:
        graph.inputs.append(value)
    return value


def typed(value: ir.Value, kind: ir.TypeProtocol, dimensions: Sequence[int | str] | None = None) -> ir.Value:
    """The value, said to be of a type."""
    value.type = kind
    value.shape = None if dimensions is None else ir.Shape(list(dimensions))
    return value


def finish(graph: ir.Graph, value: ir.Value, name: str, dimensions: Sequence[int | str]) -> None:
    """Make a value an output of this name."""
    if value.name in {each.name for each in graph.outputs}:
        return
    value.name = name
    graph.outputs.append(typed(value, INT64, dimensions))
