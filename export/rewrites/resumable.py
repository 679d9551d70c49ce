"""The whole generation as two graphs that a program runs in turns: one starts, one goes on for some steps.

Letters: B pictures, R rows of a step, T tokens of a picture.

For programs that show progress, can stop, and have no sampler of their own: a page in a browser. `start` takes `labels`
(B,) int64, `seed` () int64 and `first` () int64, the number of the first picture among all of the seed; its outputs are
what `advance` takes, by the same names. That takes `done` () and `count` () int64 too, how many steps are done and how
many to do; it gives `tokens` (B, T) int64 as far as they are drawn, and each value `state.NAME` as `next.NAME`, to be
given back. Caches grow, and are copied once a call where they leave ONNX Runtime: so a call does several steps.
"""

from __future__ import annotations

import onnx_ir as ir

from export.graph.builder import Builder, drop_unused_initializers
from export.graph.onnx_model import IR_VERSION, OnnxModel
from export.rewrites.generation import add_steps, carried_first, known_before
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_step import INT64, Steps, fed, typed

STATE, NEXT, KNOWN = "state.", "next.", "known."
NOISE, TOKENS = "noise", "tokens"  # keys of pictures; tokens of a causal model that are drawn already


def resumable(model: OnnxModel) -> tuple[ir.Model, ir.Model, int]:
    """`start` and `advance` of a model of classes for `onnxruntime` or `standard`, and the steps of a picture."""
    model = model if model.manifest.sampling else with_sampling(model)
    start = starting(model)
    advance = advancing(model, start)
    taken = {value.name for value in advance.graph.inputs}
    for value in [each for each in start.graph.outputs if each.name not in taken]:
        start.graph.outputs.remove(value)
    return start, advance, len(Steps.of(model.manifest.shape, model.manifest.sampler).number)


def starting(model: OnnxModel) -> ir.Model:
    """The graph that makes all that steps read, and what they carry on, as it is before the first one."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="start")
    build = Builder(graph, None, "start")
    labels = fed(graph, "labels", INT64, ["pictures"])
    seed, first = (fed(graph, name, INT64, []) for name in ("seed", "first"))
    pictures = build.add("Shape", [labels], "pictures")
    noise = GraphNoise.of_seed(Builder(graph, None, "noise"), seed, pictures, first)
    known = known_before(model, build, labels, None, pictures)
    carried = carried_first(build, model, known, pictures)
    if model.manifest.shape.drawing.sequential:
        rest = build.numbers("no_tokens", 0)
        none = build.add("Concat", [pictures, rest], "no_token_shape", axis=0)
        empty = build.add("Expand", [build.numbers("nothing", 0), none], "none_drawn")
        carried["drawn"] = typed(empty, INT64, ["pictures", "drawn"])
    assert noise.keys is not None
    known[NOISE] = typed(noise.keys, INT64, ["pictures"])
    for prefix, values in ((KNOWN, known), (STATE, carried)):
        for name, value in values.items():
            made = build.add("Identity", [value], f"give/{name}")
            made.name, made.type, made.shape = prefix + name, value.type, value.shape
            graph.outputs.append(made)
    drop_unused_initializers(graph)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="compress")


def advancing(model: OnnxModel, start: ir.Model) -> ir.Model:
    """The graph that does some steps."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="advance")
    build = Builder(graph, None, "advance")
    done, count = (fed(graph, name, INT64, []) for name in ("done", "count"))
    given = {value.name or "": value for value in start.graph.outputs}
    fed_values = {name: ir.Value(name=name, type=value.type, shape=value.shape) for name, value in given.items()}
    graph.inputs.extend(fed_values.values())
    known, carried = (
        {name.removeprefix(prefix): value for name, value in fed_values.items() if name.startswith(prefix)}
        for prefix in (KNOWN, STATE)
    )
    keys = known.pop(NOISE)
    drawn = carried.pop("drawn") if model.manifest.shape.drawing.sequential else None
    pictures = build.add("Shape", [keys], "pictures")
    noise = GraphNoise(Builder(graph, None, "noise"), keys)
    made, tokens = add_steps(model, build, noise, known, carried, pictures, count, done)
    if drawn is not None:
        tokens = build.add("Concat", [drawn, tokens], "all_tokens", axis=1)
        made["drawn"] = build.add("Identity", [tokens], "give_tokens")
    for name, value in made.items():
        before = given[STATE + name]
        value.name, value.type, value.shape = NEXT + name, before.type, before.shape
    tokens.name = TOKENS
    graph.outputs.extend([typed(tokens, INT64, ["pictures", "drawn"]), *made.values()])
    for value in [each for each in graph.inputs if not each.uses()]:
        graph.inputs.remove(value)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="compress")
