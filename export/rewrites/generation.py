"""What a whole generation in graphs is made of: what is known before the first step, what is carried, and the steps.

Letters: B pictures, R rows of a step, T tokens of a picture, n positions of a step, V logits that are drawn from, P x C
features of a text, K key/value heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from export.graph.builder import Builder, tensor_type
from export.graph.onnx_model import OnnxModel
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.single_step import FLOAT, INT64, Steps, Writing, constant, fed, inlined, step_writer, typed
from export.runtime.cuts import limits_of
from export.runtime.manifest import Manifest
from export.runtime.signature import DecodeSignature, Ports, chosen_ports

BOOL = ir.TensorType(ir.DataType.BOOL)

Values = dict[str, ir.Value]


def known_before(
    model: OnnxModel, build: Builder, labels: ir.Value, features: ir.Value | None, pictures: ir.Value
) -> Values:
    """What every step reads of the classes (B,) and texts (B, P, C) of pictures (1,), for all rows of a step."""
    shape = model.manifest.shape
    known = {"labels": labels} if features is None else {"labels": labels, "features": features}
    if model.manifest.sampler.guided:  # every picture is drawn again without class, below the others
        null = build.add("Expand", [constant(build, "null", shape.null_class), pictures], "null_rows")
        below = {"labels": null, "features": features}
        known = {
            name: build.add("Concat", [value, below[name]], f"{name}_of_rows", axis=0) for name, value in known.items()
        }
    typed(known["labels"], INT64, ["rows"])
    if shape.text and shape.drawing.sequential:
        sizes = build.add("Abs", [known["features"]], "sizes")
        largest = build.add("ReduceMax", [sizes, constant(build, "last", [-1])], "largest", keepdims=0)
        known["valid"] = build.add("Cast", [largest], "valid", to=int(ir.DataType.BOOL))
    if model.begin is not None:
        known |= inlined(build.graph, model.begin, "begin", known)
    return known


def caches_of(manifest: Manifest) -> Ports:
    """Keys and values of each layer (R, K, P, d). They grow: no step of a Loop can write into what it is given."""
    ports = DecodeSignature.of(manifest).caches
    return {name: replace(port, sizes=(*port.sizes[:2], "past", port.sizes[3])) for name, port in ports.items()}


def carried_first(build: Builder, model: OnnxModel, known: Mapping[str, ir.Value], pictures: ir.Value) -> Values:
    """What steps carry on, as it is before the first one of so many pictures (1,)."""
    manifest, shape = model.manifest, model.manifest.shape
    rows = build.add("Shape", [known["labels"]], "row_count")
    first: Values = {}
    if shape.drawing.masks:
        size = build.add("Concat", [pictures, constant(build, "length", [shape.length])], "picture_shape", axis=0)
        first["drawn"] = build.add("Expand", [constant(build, "mask", shape.mask_token), size], "all_masked")
    elif shape.drawing.scaled:
        size = build.add("Concat", [pictures, constant(build, "length", [shape.length])], "picture_shape", axis=0)
        first["drawn"] = build.add("Expand", [constant(build, "nothing", 0), size], "nothing_drawn")
        latents = build.add(
            "Concat", [rows, constant(build, "latent", [1, shape.latent_width])], "latent_shape", axis=0
        )
        first["tokens"] = typed(
            build.add("Expand", [build.initializer("no_latent", np.array(0, dtype=np.float32)), latents], "no_latents"),
            FLOAT,
            ["rows", "read", shape.latent_width],
        )
    else:
        first |= opening(build, model, known, rows)
    if "drawn" in first:
        typed(first["drawn"], INT64, ["pictures", shape.length])
    ports = caches_of(manifest)
    empty = build.initializer("empty", np.array(0, dtype=next((port.kind for port in ports.values()), "float32")))
    shapes: Values = {}
    for name, port in ports.items():
        layer, part = name.split(".")
        if layer not in shapes:
            sizes = constant(build, f"cache_{layer}", port.bound(batch=0, past=0)[1:])
            shapes[layer] = build.add("Concat", [rows, sizes], f"cache_shape_{layer}", axis=0)
        made = build.add("Expand", [empty, shapes[layer]], f"empty_{layer}_{part}")
        first[f"past.{name}"] = typed(made, tensor_type(port.kind), ["rows", *port.sizes[1:]])
    return first


def opening(build: Builder, model: OnnxModel, known: Mapping[str, ir.Value], rows: ir.Value) -> Values:
    """What a causal model reads first, for so many rows (1,)."""
    shape, first = model.manifest.shape, {}
    if shape.text:
        none = build.add("Concat", [rows, constant(build, "none", [0])], "no_shape", axis=0)
        first["tokens"] = build.add("Expand", [constant(build, "nothing", 0), none], "no_tokens")
        features = build.add("Identity", [known["features"]], "first_features")
        first["features"] = typed(features, FLOAT, ["rows", "text", shape.text.width])
    else:
        ids = build.add("Add", [known["labels"], constant(build, "first_class", shape.first_class)], "class_ids")
        parts = [build.add("Unsqueeze", [ids, constant(build, "column", [-1])], "class_column")]
        if shape.lead:
            size = build.add("Concat", [rows, constant(build, "lead", [shape.lead])], "lead_shape", axis=0)
            parts.insert(0, build.add("Expand", [constant(build, "start_token", shape.start_token), size], "starts"))
        first["tokens"] = build.add("Concat", parts, "opening", axis=1)
    typed(first["tokens"], INT64, ["rows", "read"])
    if model.manifest.cache == "shared":
        position = build.add("Identity", [constant(build, "beginning", 0)], "first_position")
        first["position"] = typed(position, INT64, [])
    return first


def add_steps(
    model: OnnxModel,
    build: Builder,
    noise: GraphNoise,
    known: Values,
    carried: Values,
    pictures: ir.Value,
    count: ir.Value,
    after: ir.Value | None = None,
) -> tuple[Values, ir.Value]:
    """What a Loop of so many steps () carries behind its last one, and tokens of so many pictures (1,).

    Of a causal model these are the tokens (B, steps) that were drawn, of the others all (B, T) so far. `after` () is
    how many steps are done already; none if not given.
    """
    shape, sampler = model.manifest.shape, model.manifest.sampler
    graph = ir.Graph([], [], nodes=[], opset_imports=build.graph.opset_imports, name="step")
    index = fed(graph, "step", INT64, [])
    going = fed(graph, "going", BOOL, [])
    inner = Builder(graph, None, "step")
    given = {name: fed(graph, f"carried.{name}", value.type or INT64, None) for name, value in carried.items()}
    if after is not None:
        index = inner.add("Add", [index, after], "index")
    writing = Writing(model, Steps.of(shape, sampler), build, inner, noise, given, index)
    step_writer(shape)(writing, {**known, **choices(writing, pictures)})
    build.graph.opset_imports.update(graph.opset_imports)  # ONNX has them for the outermost graph alone
    go_on = typed(inner.add("Identity", [going], "go_on"), BOOL, [])
    graph.outputs.extend([go_on, *(writing.made[name] for name in given)])
    scanned = shape.drawing.sequential
    if scanned:
        token = inner.add("Squeeze", [writing.made["drawn"], constant(build, "second", [1])], "token")
        graph.outputs.append(typed(token, INT64, ["pictures"]))
    results = build.node(
        "Loop",
        [count, build.initializer("yes", np.array(True)), *carried.values()],
        outputs=len(given) + scanned,
        attributes={"body": graph},
    )
    made = dict(zip(given, results, strict=False))
    if scanned:
        return made, build.add("Transpose", [results[-1]], "in_rows", perm=[1, 0])
    if shape.drawing.masks:  # a model that can draw the mask token itself may have
        return made, build.add(
            "Min", [made["drawn"], constant(build, "largest_token", shape.vocabulary - 1)], "no_mask"
        )
    return made, build.add("Identity", [made["drawn"]], "all_drawn")


def choices(writing: Writing, pictures: ir.Value) -> Values:
    """What the sampling inside the decode graph is fed at a step."""
    inner, shape, sampler, steps = writing.inner, writing.shape, writing.sampler, writing.steps
    outputs = shape.predicted
    if "sureness" in chosen_ports(shape, sampler):
        outputs = shape.vocabulary  # a position that drew the mask token would count as open again
    count = inner.add("Sub", [writing.end, writing.start], "positions_count")
    numbers = inner.add("Mul", [count, writing.constant("drawn_from", outputs)], "noise_count")
    made = writing.noise.gumbel(Builder(inner.graph, None, "step/noise"), writing.number, numbers)
    counts = inner.add("Unsqueeze", [count, writing.constant("front", [0])], "positions_counts")
    size = inner.add("Concat", [pictures, counts, writing.constant("each", [outputs])], "noise_shape", axis=0)
    shaped = inner.add("Reshape", [made, size], "noise")
    likeliest = not sampler.temperature_at(0, 1) and sampler.reveal != "logit"  # cuts nothing
    cuts = sampler.cuts
    limits = {
        name: writing.outer.initializer(name, limit)
        for name, limit in limits_of({} if likeliest else cuts).items()
        if name in cuts
    }
    return {
        "noise": inner.add("Mul", [shaped, writing.now("noisy", steps.noisy)], "noise_or_none"),
        "guidance": writing.now("guidance", steps.guidance),
        "temperature": writing.now("temperature", steps.temperature),
        **limits,
    }
