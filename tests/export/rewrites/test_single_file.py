"""The whole generation in one graph draws what the engine draws step by step, of every order and cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.builder import Builder
from export.rewrites.hoist import hoist
from export.rewrites.noise_graph import GraphNoise
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.engine import EngineError
from export.runtime.manifest import GENERATE
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.targets import fuse

KINDS = ["rotary", "learned", "lead", "modulated", "text", "masked", "masked without classes", "next-scale"]
SAMPLER = Sampler(top_k=9, temperature=0.9, steps=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in KINDS),
        *((kind, {"cfg_scale": 2.0, "guidance": "linear"}) for kind in KINDS),
        ("rotary", {"temperature": 0.0, "top_p": 0.5}),
        ("rotary", {"end_temperature": 0.3, "top_p": 0.8}),
        ("rotary", {"temperature": 1e-300, "top_p": 1e-46}),
        ("rotary", {"top_p": 1e-46}),
        ("masked", {"reveal": "halton", "cfg_scale": 2.0}),
        ("masked", {"reveal": "logit", "cfg_scale": 2.0}),
        ("masked", {"reveal": "random", "cfg_scale": 2.0}),
        ("masked", {"reveal": "halton", "steps": 40}),
        ("masked", {"temperature": 0.0, "choice_temperature": 0.0}),
    ],
)
def test_one_file_draws_the_tokens_and_pictures_of_the_engine(kind, changes, exported, engine_of, examples_of) -> None:
    model = exported(kind)
    model = replace(model, manifest=replace(model.manifest, sampler=replace(SAMPLER, **changes)))
    batch = examples_of(kind)
    labels = batch.inputs[:, 0] - model.manifest.shape.first_class
    for each in (model, with_sampling(fuse(model).model)):
        generate = single_file(each)
        onnx.checker.check_model(ir.to_proto(generate), full_check=True)
        generate.clone()  # every value has its maker or is a constant of the graph
        files = {**each.manifest.files, "generate": GENERATE}
        engine = engine_of(replace(each, generate=generate, manifest=replace(each.manifest, files=files)))
        for seed in (0, 12345678901, 2**64 - 1):
            tokens, images = engine.draw_in_one(labels, seed, batch.features)
            wanted = engine.draw_tokens(labels, seed, features=batch.features)
            np.testing.assert_array_equal(tokens, wanted)
            np.testing.assert_array_equal(images, engine.decode_images(wanted))


@pytest.mark.parametrize("kind", ["lead", "modulated", "masked", "next-scale"])
def test_one_file_holds_what_was_hoisted_too(kind, exported, engine_of, examples_of) -> None:
    model = exported(kind)
    sampler = replace(SAMPLER, cfg_scale=2.0)
    model = hoist(replace(model, manifest=replace(model.manifest, sampler=sampler))).model
    assert model.begin is not None
    files = {**model.manifest.files, "generate": GENERATE}
    engine = engine_of(replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files)))
    labels = examples_of(kind).inputs[:, 0] - model.manifest.shape.first_class
    tokens, _ = engine.draw_in_one(labels, 4)
    np.testing.assert_array_equal(tokens, engine.draw_tokens(labels, 4))


def test_an_engine_without_the_file_says_how_to_make_it(exported, engine_of) -> None:
    engine = engine_of(exported("rotary"))
    with pytest.raises(EngineError, match=r"has no single file; make it with  engine: \{single_file: true\}"):
        engine.draw_in_one(np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match="label 11 is not a class"):
        engine.draw_in_one([11])
    with pytest.raises(ValueError, match="seed -1: must be a whole number from 0 to"):
        engine.draw_in_one([1], -1)


@pytest.mark.parametrize("kind", ["rotary", "masked", "next-scale"])
def test_logits_that_hold_nan_are_an_error_from_one_file_too(kind, exported, engine_of) -> None:
    model = exported(kind)
    weights = [each for each in model.decode.graph.initializers.values() if each.shape.rank() == 2]
    damaged = weights[-1].const_value.numpy().copy()
    damaged[:, 3] = np.nan
    weights[-1].const_value = ir.Tensor(damaged, name=weights[-1].name)
    files = {**model.manifest.files, "generate": GENERATE}
    engine = engine_of(replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files)))
    with pytest.raises(EngineError, match=r"^the model's logits hold NaN, so nothing can be drawn from them;"):
        engine.draw_in_one(np.arange(2))


def test_noise_made_in_a_graph_is_that_of_numpy() -> None:
    whole = ir.TensorType(ir.DataType.INT64)
    inputs = [
        ir.Value(name=name, type=whole, shape=ir.Shape(dims))
        for name, dims in (("seed", []), ("pictures", [1]), ("step", []), ("count", []))
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 23}, name="noise")
    noise = GraphNoise.of_seed(Builder(graph, None, "noise"), inputs[0], inputs[1])
    for use in ("token", "place"):
        made = noise.gumbel(Builder(graph, None, use), inputs[2], inputs[3], use)
        made.name, made.type, made.shape = use, ir.TensorType(ir.DataType.FLOAT), ir.Shape(["pictures", "count"])
        graph.outputs.append(made)
    proto = ir.to_proto(ir.Model(graph, ir_version=11))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed, step in ((0, 0), (7, 3), (2**40, 255)):
        feeds = {"seed": seed, "pictures": [3], "step": step, "count": 1000}
        found = session.run(["token", "place"], {name: np.array(value) for name, value in feeds.items()})
        for values, use in zip(found, ("token", "place"), strict=True):
            np.testing.assert_allclose(values, Noise(seed, 3).gumbel(step, (1000,), use), atol=2e-6)
