"""The whole generation as one graph: labels and a seed in, tokens and pictures out.

Letters: B pictures, R rows of a step, T tokens of a picture, n positions of a step, V logits that are drawn from, P x C
features of a text.

Inputs are `labels` (B,) int64, `seed` () int64 and, of a text model, `features` (B, P, C); outputs are `tokens` (B, T)
and `images` (B, H, W, channels) uint8. The sampler is the engine's own, written into the graph. A Loop runs the decode
graph, sampling included, and carries the cache: ONNX Runtime copies it at every step, so this is the handy form, not
the fastest one.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.graph.builder import Builder, tensor_type
from export.graph.onnx_model import IR_VERSION, OnnxModel
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_step import FLOAT, INT64, Steps, Writing, constant, fed, inlined, now, step_writer, typed
from export.runtime.cuts import limits_of
from export.runtime.signature import DecodeSignature, chosen_ports

TITLE = "generate"


def single_file(model: OnnxModel) -> ir.Model:
    """One graph of a model for `onnxruntime` or `standard`; the model stays as it is."""
    model = model if model.manifest.sampling else with_sampling(model)
    shape, sampler = model.manifest.shape, model.manifest.sampler
    outer = ir.Graph([], [], nodes=[], opset_imports={}, name=TITLE)
    build = Builder(outer, None, TITLE)
    labels, seed = fed(outer, "labels", INT64, ["pictures"]), fed(outer, "seed", INT64, [])
    known = {"labels": labels}
    if shape.text:
        known["features"] = fed(outer, "features", FLOAT, ["pictures", shape.text.length, shape.text.width])
    pictures = build.add("Shape", [labels], "pictures")
    noise = GraphNoise(Builder(outer, None, "noise"), seed, pictures)
    if sampler.guided:  # every picture is drawn again without class, below the others
        null = build.add("Expand", [constant(build, "null", shape.null_class), pictures], "null_rows")
        below = {"labels": null, "features": known.get("features")}
        known = {
            name: build.add("Concat", [value, below[name]], f"{name}_of_rows", axis=0) for name, value in known.items()
        }
    if shape.text and shape.drawing.sequential:
        sizes = build.add("Abs", [known["features"]], "sizes")
        largest = build.add("ReduceMax", [sizes, constant(build, "last", [-1])], "largest", keepdims=0)
        known["valid"] = build.add("Cast", [largest], "valid", to=int(ir.DataType.BOOL))
    if model.begin is not None:
        known |= inlined(outer, model.begin, "begin", known)
    tokens = add_loop(model, build, noise, known, pictures)
    images = inlined(outer, model.image_decoder, "image_decoder", {"tokens": tokens})["images"]
    tokens.name, images.name = "tokens", "images"
    outer.outputs.extend([typed(tokens, INT64, ["pictures", shape.length]), images])
    return ir.Model(outer, ir_version=IR_VERSION, producer_name="compress")


def add_loop(
    model: OnnxModel, build: Builder, noise: GraphNoise, known: dict[str, ir.Value], pictures: ir.Value
) -> ir.Value:
    """Tokens (B, T) that a Loop over the steps draws."""
    shape, sampler = model.manifest.shape, model.manifest.sampler
    steps = Steps.of(shape, sampler)
    graph = ir.Graph([], [], nodes=[], opset_imports=build.graph.opset_imports, name="step")
    fed(graph, "step", INT64, [])
    going = fed(graph, "going", ir.TensorType(ir.DataType.BOOL), [])
    inner = Builder(graph, None, "step")
    first = before(build, model, known, pictures)
    given = {name: fed(graph, f"carried.{name}", value.type or INT64, None) for name, value in first.items()}
    start, end, number = (now(build, inner, name, getattr(steps, name)) for name in ("start", "end", "number"))
    writing = Writing(model, steps, build, inner, noise, given, start, end, number)
    step_writer(shape)(writing, {**known, **choices(writing, pictures)})
    go_on = typed(inner.add("Identity", [going], "go_on"), ir.TensorType(ir.DataType.BOOL), [])
    graph.outputs.extend([go_on, *(writing.made[name] for name in given)])
    scanned = shape.drawing.sequential
    if scanned:
        token = inner.add("Squeeze", [writing.made["drawn"], constant(build, "second", [1])], "token")
        graph.outputs.append(typed(token, INT64, ["pictures"]))
    results = build.node(
        "Loop",
        [constant(build, "trips", len(steps.number)), build.initializer("yes", np.array(True)), *first.values()],
        outputs=len(given) + scanned,
        attributes={"body": graph},
    )
    if scanned:
        return build.add("Transpose", [results[-1]], "in_rows", perm=[1, 0])
    tokens = results[[*given].index("drawn")]
    if shape.drawing.masks:  # a model that can draw the mask token itself may have
        tokens = build.add("Min", [tokens, constant(build, "largest_token", shape.vocabulary - 1)], "no_mask")
    return tokens


def choices(writing: Writing, pictures: ir.Value) -> dict[str, ir.Value]:
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


def before(build: Builder, model: OnnxModel, known: dict[str, ir.Value], pictures: ir.Value) -> dict[str, ir.Value]:
    """What the Loop carries, as it is before the first step."""
    manifest, shape = model.manifest, model.manifest.shape
    rows = build.add("Shape", [known["labels"]], "row_count")
    first: dict[str, ir.Value] = {}
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
    ports = DecodeSignature.of(manifest).caches
    empty = build.initializer("empty", np.array(0, dtype=next((port.kind for port in ports.values()), "float32")))
    shapes: dict[str, ir.Value] = {}
    for name, port in ports.items():
        layer, part = name.split(".")
        if layer not in shapes:
            sizes = constant(build, f"cache_{layer}", port.bound(batch=0, past=0)[1:])
            shapes[layer] = build.add("Concat", [rows, sizes], f"cache_shape_{layer}", axis=0)
        made = build.add("Expand", [empty, shapes[layer]], f"empty_{layer}_{part}")
        first[f"past.{name}"] = typed(made, tensor_type(port.kind))
    return first
