"""Activations that half precision cannot hold are found on pictures, and their layers stay in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.export import Export
from export.rewrites.float_ranges import Trial, overflows
from export.runtime.engine import Engine

LARGE = 2.0**12


@pytest.fixture(scope="module")
def loud(tiny_model):
    """A model whose second feed-forward network computes numbers of some millions inside, and nothing else does."""
    model = tiny_model(layers=2, head_width=16)
    with torch.no_grad():
        ffn = model.transformer.blocks[1].ffn
        ffn.up.weight.mul_(LARGE)
        ffn.gate.weight.mul_(LARGE)
        ffn.down.weight.div_(LARGE**2)
    return model


@pytest.fixture
def pictures(loud, tiny_tokens) -> Trial:
    """Eight."""
    batch = examples(loud.shape, tiny_tokens, 0).take(slice(8))
    return Trial(batch.inputs, batch.targets)


def test_the_values_that_are_too_large_are_named_with_their_modules(loud, context, pictures) -> None:
    model = Export("onnxruntime").run(loud, context()).model
    found = overflows(model, "float16", (), pictures)
    assert {layer for each in found for layer in each.layers} == {"blocks.1.ffn", "blocks.1.ffn.down"}
    assert all(each.largest > 65504 / 2 for each in found)
    assert overflows(model, "bfloat16", (), pictures) == []


def test_the_layers_stay_in_float32_and_the_numbers_stay_right(loud, context, pictures, tmp_path) -> None:
    scores = []
    for floats in ("float32", "float16"):
        outcome = Export("onnxruntime", floats=floats).run(loud, context())
        (folder := tmp_path / floats).mkdir()
        outcome.model.save(folder)
        scores.append(Engine.load(folder, threads=1).score(pictures.inputs))
    assert outcome.model.manifest.float32_layers == ("blocks.1.ffn", "blocks.1.ffn.down")
    assert set(outcome.notes.overflow) == {"blocks.1.ffn", "blocks.1.ffn.down"}
    assert outcome.notes.float32_nodes["overflow"] > 0
    assert np.abs(scores[1] - scores[0]).max() < 0.02


def test_a_recipe_may_refuse_them(loud, context) -> None:
    with pytest.raises(PassError) as error:
        Export("onnxruntime", floats="float16", overflow="refuse").run(loud, context())
    assert str(error.value).startswith("export: /blocks/1/ffn/")
    assert str(error.value).endswith("; overflow: keep leaves it in float32")


def test_modules_that_stay_in_float32_anyway_are_no_reason_to_refuse(loud, context) -> None:
    kept = ("blocks.1.ffn", "blocks.1.ffn.down")
    outcome = Export("onnxruntime", floats="float16", overflow="refuse", float32=kept).run(loud, context())
    assert outcome.model.manifest.float32_layers == kept
    with pytest.raises(PassError) as error:
        Export("onnxruntime", floats="float16", float32=("hed",)).run(loud, context())
    assert str(error.value) == "export: float32: no module is called 'hed'; did you mean 'head'?"


def test_keys_that_are_too_large_are_refused_because_the_cache_holds_them(tiny_model, context, tiny_tokens) -> None:
    model = tiny_model(layers=1, head_width=16)
    with torch.no_grad():
        model.transformer.blocks[0].attention.value.weight.mul_(1e7)
    with pytest.raises(PassError, match=r"^export: present.0.value reaches [\d,]+, and the cache is kept in the type"):
        Export("onnxruntime", floats="float16").run(model, context())
