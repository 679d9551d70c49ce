"""Hoisted engines compute and draw what PyTorch does; what the class or the text alone decides is made beforehand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.onnx_model import OnnxModel
from export.rewrites.hoist import HoistError, hoist
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.sampling import Sampler
from export.targets import fuse
from export.targets.conformance import violations

# Modulation by class; by class and position; shared; by a text, whose keys and values two more kinds of attention read.
KINDS = ("modulated", "lead", "masked", "u-vit", "next-scale", "next-scale shared")
# Numbers of modulation: six vectors of the width, 32, for a layer and two for the end, by a matrix and a bias.
BLOCK, FINAL = 6 * 32 * (32 + 1), 2 * 32 * (32 + 1)
SIZES = 256  # bytes of sizes and single numbers that come or go with them


def ways(model: OnnxModel, order: str) -> OnnxModel:
    """The model with both passes in one of two orders, or hoisted alone."""
    if order == "hoisted":
        return hoist(model).model
    return hoist(fuse(model).model).model if order == "fused first" else fuse(hoist(model).model).model


@pytest.mark.parametrize("order", ["hoisted", "fused first", "hoisted first"])
@pytest.mark.parametrize("target", ["onnxruntime", "standard", "tensorrt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hoisted_engine_computes_and_draws_what_torch_does(
    exported, engine_of, model_of, examples_of, kind, target, order
) -> None:
    made = ways(exported(kind, target), order)
    assert violations(made) == []
    assert not {"labels", "features"} & {value.name for value in made.decode.graph.inputs}
    engine, model, batch = engine_of(made), model_of(kind), examples_of(kind)
    expected = model.score(batch.inputs, batch.features)
    for logits in (engine.score(batch.inputs, batch.features), engine.score_stepwise(batch.inputs, batch.features)):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
    labels, sampler = np.arange(3) % model.classes, Sampler(cfg_scale=2.0, steps=4)
    expected = model.draw_tokens(labels, 3, sampler, batch.features)
    assert (engine.draw_tokens(labels, 3, sampler, batch.features) == expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
@pytest.mark.parametrize("form", ["int8 dynamic", "int4 group", "int8 static"])
@pytest.mark.parametrize("kind", ["lead", "masked", "next-scale"])
def test_quantized_modulation_is_hoisted_too(exported, engine_of, examples_of, kind, form, target) -> None:
    plain = exported(f"{kind} as {form}", target)
    hoisted = hoist(plain).model
    assert violations(hoisted) == []
    left = [name for name in hoisted.decode.graph.initializers if "modulation" in name]
    assert not [name for name in left if name.endswith("linear.weight")]
    batch = examples_of(kind)
    expected, found = (engine_of(each).score_stepwise(batch.inputs) for each in (plain, hoisted))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_what_moved_is_counted(exported) -> None:
    made = hoist(exported("modulated"))
    assert (made.values, made.row_bytes) == (8, 4 * 8 * 32)
    assert 0 <= made.weight_bytes - 4 * (BLOCK + FINAL) < SIZES
    plain, left = (len(list(model.decode.graph)) for model in (exported("modulated"), made.model))
    assert made.nodes == plain - left
    inputs = [value.name for value in made.model.decode.graph.inputs]
    assert inputs[-8:] == [
        *(f"begin.blocks.0.modulation.linear.{part}" for part in range(6)),
        *(f"begin.final_modulation.linear.{part}" for part in range(2)),
    ]


def test_what_depends_on_the_position_is_made_for_all_positions_together(exported) -> None:
    made = hoist(exported("lead"))
    (output,) = made.model.begin.graph.outputs
    assert output.name == "begin.positions"
    assert list(output.shape)[1:] == [17, (2 * 6 + 2) * 32]  # start, class, and 15 of 16 tokens
    assert made.row_bytes == 4 * (2 * 6 + 2) * 32
    assert abs(made.weight_bytes - 4 * (2 * BLOCK + FINAL)) < SIZES


def test_only_the_classes_embeddings_go_along(exported) -> None:
    begin = hoist(exported("masked")).model.begin
    assert begin.graph.initializers["begin.classes"].shape == (11, 32)


def test_where_nothing_is_constant_nothing_moves(exported) -> None:
    for kind in ("rotary", "text", "class token"):
        plain = exported(kind)
        made = hoist(plain)
        assert made.model is plain
        assert (made.nodes, made.weight_bytes) == (0, 0)


def test_a_static_cache_has_its_text_beforehand_already(exported) -> None:
    plain = exported("text", "tensorrt")
    made = hoist(plain)
    assert made.model is plain
    assert [value.name for value in plain.begin.graph.inputs] == ["labels", "features"]
    assert [(value.name, list(value.shape)[1:]) for value in plain.begin.graph.outputs] == [
        ("begin.text.down.0", [5, 32])
    ]


def test_a_second_time_is_refused(exported) -> None:
    with pytest.raises(HoistError, match="the model is hoisted already; name it once"):
        hoist(hoist(exported("masked")).model)


@pytest.mark.parametrize("kind", ["lead", "masked"])
def test_a_fixed_batch_is_hoisted_too(exported, engine_of, model_of, examples_of, kind) -> None:
    engine, model, batch = engine_of(hoist(exported(kind, fixed_batch=2)).model), model_of(kind), examples_of(kind)
    np.testing.assert_allclose(engine.score(batch.inputs), model.score(batch.inputs), rtol=0, atol=2e-5)
    labels, sampler = np.zeros(3, dtype=np.int64), Sampler(cfg_scale=2.0, steps=3)
    assert (engine.draw_tokens(labels, 1, sampler) == model.draw_tokens(labels, 1, sampler)).all()


def test_a_hoisted_model_survives_its_folder(exported, tmp_path) -> None:
    model = hoist(exported("masked")).model
    model.save(tmp_path)
    loaded = OnnxModel.load(tmp_path)
    assert loaded.manifest.files["begin"] == "begin.onnx"
    assert [value.name for value in loaded.begin.graph.outputs] == [value.name for value in model.begin.graph.outputs]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lead", "masked", "next-scale"])
def test_a_hoisted_graph_chooses_tokens_itself_and_goes_into_one_file(exported, engine_of, model_of, kind) -> None:
    hoisted, model = with_sampling(hoist(fuse(exported(kind)).model).model), model_of(kind)
    assert violations(hoisted) == []
    labels = np.arange(3)
    assert (engine_of(hoisted).draw_tokens(labels, 3) == model.draw_tokens(labels, 3)).all()
    whole = onnxruntime.InferenceSession(ir.to_proto(single_file(hoisted)).SerializeToString())
    found = whole.run(["tokens"], {"labels": labels, "seed": np.array(3)})[0]
    assert (found == model.draw_tokens(labels, 3)).all()
