"""The whole generation as one graph: labels and a seed in, tokens and pictures out.

Letters: B pictures, T tokens of a picture, P x C features of a text.

Inputs are `labels` (B,) int64, `seed` () int64 and, of a text model, `features` (B, P, C); outputs are `tokens` (B, T)
and `images` (B, H, W, channels) uint8. The sampler is the engine's own, written into the graph. A Loop runs the decode
graph, sampling included, and carries the cache: ONNX Runtime copies it at every step, so this is the handy form, not
the fastest one.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import Builder
from export.graph.onnx_model import IR_VERSION, OnnxModel
from export.rewrites.generation import add_steps, carried_first, known_before
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_step import FLOAT, INT64, Steps, constant, fed, inlined, typed

TITLE = "generate"


def single_file(model: OnnxModel) -> ir.Model:
    """One graph of a model for `onnxruntime` or `standard`; the model stays as it is."""
    model = model if model.manifest.sampling else with_sampling(model)
    shape, sampler = model.manifest.shape, model.manifest.sampler
    outer = ir.Graph([], [], nodes=[], opset_imports={}, name=TITLE)
    build = Builder(outer, None, TITLE)
    labels, seed = fed(outer, "labels", INT64, ["pictures"]), fed(outer, "seed", INT64, [])
    text = None
    if shape.text:
        text = fed(outer, "features", FLOAT, ["pictures", shape.text.length, shape.text.width])
    pictures = build.add("Shape", [labels], "pictures")
    noise = GraphNoise.of_seed(Builder(outer, None, "noise"), seed, pictures)
    known = known_before(model, build, labels, text, pictures)
    first = carried_first(build, model, known, pictures)
    trips = constant(build, "trips", len(Steps.of(shape, sampler).number))
    _, tokens = add_steps(model, build, noise, known, first, pictures, trips)
    images = inlined(outer, model.image_decoder, "image_decoder", {"tokens": tokens})["images"]
    tokens.name, images.name = "tokens", "images"
    outer.outputs.extend([typed(tokens, INT64, ["pictures", shape.length]), images])
    return ir.Model(outer, ir_version=IR_VERSION, producer_name="compress")
