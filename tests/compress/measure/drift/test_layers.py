"""Streams of a candidate against those of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import parse
from compress.measure.drift.floor import RoughModel
from compress.measure.drift.layers import HIGHEST_SQNR, layers, relative_error, states_of
from compress.models.transformer.examples import examples
from compress.passes import Context, find
from compress.passes.export import Export
from compress.passes.rotate import Rotate
from export.runtime.engine import Engine

SCALES = {"order": "next-scale", "grid": (7, 7), "scales": (1, 1, 2, 3, 7), "latent_width": 6, "positions": "learned",
          "modulation": "class"}  # fmt: skip
MASKED = {"order": "masked", "positions": "learned", "class_token": True}
REGISTERS = {"order": "masked", "positions": "learned", "modulation": "class", "registers": 1}


def test_a_case_worked_by_hand() -> None:
    reference = [np.ones((1, 1, 4), dtype=np.float32), np.array([[[3.0, 4.0]]], dtype=np.float32)]
    candidate = [reference[0], np.array([[[3.0, 4.5]]], dtype=np.float32)]
    first, second = layers(reference, candidate)
    assert (first.name, first.cosine, first.relative_error, first.sqnr_db) == ("embedding", 1, 0, HIGHEST_SQNR)
    assert second.name == "blocks.0"
    assert second.relative_error == pytest.approx(0.1)
    assert second.sqnr_db == pytest.approx(20)
    assert second.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))


def test_streams_that_do_not_pair_up_are_refused() -> None:
    one = [np.zeros((1, 1, 4), dtype=np.float32)]
    with pytest.raises(ValueError, match="2 and 1 streams do not pair up"):
        layers(one, one * 2)
    assert relative_error(one[0], one[0] + 1) == 1, "of a silent reference any sound is all error"


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("changes", [{}, {"positions": "learned", "modulation": "class"}, SCALES, MASKED, REGISTERS])
def test_an_engine_shows_the_streams_of_pytorch(changes, fused, tiny_model, tiny_tokens, tmp_path) -> None:
    model = tiny_model(**changes, **({} if changes else {"width": 64, "head_width": 16}))
    batch = examples(model.shape, tiny_tokens.part("held_out", 3))
    current = model
    for name, settings in [("export", {"target": "onnxruntime"}), *([("fuse", {})] if fused else [])]:
        current = parse(find(name, "t"), settings, name).run(current, Context(model, tiny_tokens, 2, 0, tmp_path)).model
    current.save(tmp_path)
    made = layers(states_of(model, batch), states_of(Engine.load(tmp_path, threads=1), batch))
    assert len(made) == 3
    assert all(each.relative_error < 1e-5 for each in made)


def test_pruned_layers_are_left_out_and_the_others_keep_their_names() -> None:
    reference = [np.full((1, 1, 2), value, dtype=np.float32) for value in (1.0, 2.0, 3.0, 4.0)]
    candidate = [reference[0], reference[1], reference[3] * 1.5]
    found = layers(reference, candidate, [0, 2])
    assert [each.name for each in found] == ["embedding", "blocks.0", "blocks.2"]
    assert [each.relative_error for each in found] == pytest.approx([0, 0, 0.5])
    with pytest.raises(ValueError, match="3 and 4 streams"):
        layers(reference, candidate)


def test_a_model_in_bf16_departs_by_its_rounding(tiny_model, tiny_tokens) -> None:
    model = tiny_model()
    batch = examples(model.shape, tiny_tokens.part("held_out", 3))
    rough = states_of(RoughModel.of(model), batch)
    found = layers(states_of(model, batch), rough)
    assert all(2**-13 < each.relative_error < 2**-5 for each in found)
    assert rough[0].dtype == np.float32


@pytest.mark.parametrize("engine", [False, True])
def test_the_streams_of_a_rotated_model_compare_with_those_of_its_input(
    engine, tiny_model, tiny_tokens, context, tmp_path
) -> None:
    model = tiny_model()
    batch = examples(model.shape, tiny_tokens.part("held_out", 3))
    made = Rotate(stream=True, values=True, down="none").run(model, context()).model
    with torch.no_grad():
        raw = [each.numpy() for each in made.transformer.layer_outputs(*made.transformer.prepare(*batch.tensors()))]
    assert all(each.relative_error > 0.5 for each in layers(states_of(model, batch), raw)), "they are other numbers"
    if engine:
        Export("onnxruntime").run(made, context()).model.save(tmp_path)
        made = Engine.load(tmp_path, threads=1)
    found = layers(states_of(model, batch), states_of(made, batch))
    assert len(found) == 3
    assert all(each.relative_error < 1e-5 for each in found)
