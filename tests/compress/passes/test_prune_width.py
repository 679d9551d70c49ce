"""prune-width: tensors get smaller, what was lost is made up for, and everything behind it works."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import ContradictionError
from compress.models import artifact
from compress.models.artifact import Form
from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.distill import Distill
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_width import PruneWidth
from compress.passes.quantize import Quantize
from compress.passes.rotate import Rotate
from compress.passes.shared.principal import unturnable
from export.runtime.engine import Engine


def test_every_kind_of_model_gets_narrower_and_is_repaired(any_model, any_tokens, context):
    run = context(any_model, tokens=any_tokens, calibration=24)
    outcome = PruneWidth(ratio=0.25, multiple=8).run(any_model, run)
    config, notes = outcome.model.transformer.config, outcome.notes
    assert (config.width, notes.width, notes.of) == (24, 24, 32)
    assert config.layers == any_model.transformer.config.layers
    assert notes.score == ("taylor" if unturnable(any_model.transformer.config) else "pca")
    assert (notes.variance is None) == (notes.score == "taylor")
    assert notes.parameters == pytest.approx(outcome.model.parameters() / any_model.parameters(), abs=1e-4)
    assert notes.repair.stream_error_after < 0.8 * notes.repair.stream_error_before
    assert notes.repair.kept is None


def test_a_stream_of_few_axes_loses_nothing(tiny_model, tiny_tokens, context):
    model = tiny_model()
    axes = torch.linalg.qr(torch.randn(32, 16, generator=torch.Generator().manual_seed(1))).Q
    with torch.no_grad():
        model.transformer.embedding.weight.copy_(model.transformer.embedding.weight @ axes @ axes.T)
        for block in model.transformer.blocks:
            for linear in (block.attention.output, block.ffn.down):
                linear.weight.copy_(axes @ axes.T @ linear.weight)
    outcome = PruneWidth(keep=16, repair=False).run(model, context(model))
    assert outcome.notes.variance == pytest.approx(1)
    batch = examples(model.shape, tiny_tokens.part("held_out", 4)).tensors()
    with torch.no_grad():
        torch.testing.assert_close(outcome.model.transformer(*batch), model.transformer(*batch), rtol=1e-3, atol=5e-3)
    assert outcome.notes.repair is None


@pytest.mark.parametrize("score", ["taylor", "activation"])
def test_channels_that_do_nothing_go_first(tiny_model, context, score):
    model, dead = tiny_model(), [1, 7, 8, 30]
    transformer = model.transformer
    with torch.no_grad():
        transformer.embedding.weight[:, dead] = 0
        for block in transformer.blocks:
            for linear in (block.attention.output, block.ffn.down):
                linear.weight[dead] = 0
    made = PruneWidth(keep=28, score=score, repair=False).run(model, context(model)).model.transformer
    stays = [channel for channel in range(32) if channel not in dead]
    assert torch.equal(made.embedding.weight, transformer.embedding.weight[:, stays])


def test_the_width_is_a_multiple_or_what_was_asked_for():
    assert PruneWidth(ratio=0.3, multiple=16).kept(128) == 96
    assert PruneWidth(ratio=0.01).kept(100) == 96
    assert PruneWidth(keep=37).kept(128) == 37


def test_all_channels_are_the_model_itself(tiny_model, context):
    model = tiny_model()
    outcome = PruneWidth(keep=32).run(model, context(model))
    assert outcome.model is model
    assert (outcome.notes.width, outcome.notes.parameters, outcome.notes.repair) == (32, 1.0, None)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"modulation": "class", "norm_affine": False, "norm": "layernorm"}])
def test_it_is_saved_exported_fused_and_quantized_as_any_other(tiny_model, tiny_tokens, context, tmp_path, changes):
    model = tiny_model(**changes)
    run = context(model)
    narrow = PruneWidth(keep=24).run(model, run).model
    for name in ("torch", "graph"):
        (tmp_path / name).mkdir()
    artifact.save(narrow, tmp_path / "torch")
    loaded = artifact.load(tmp_path / "torch", Form.TORCH)
    batch = examples(model.shape, tiny_tokens.part("held_out", 4))
    expected = narrow.score(batch.inputs, batch.features)
    assert np.array_equal(loaded.score(batch.inputs, batch.features), expected)
    fused = Fuse().run(Export("onnxruntime").run(narrow, run).model, run).model
    fused.save(tmp_path / "graph")
    made = Engine.load(tmp_path / "graph").score(batch.inputs, None)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3)
    assert Quantize(weights="int8").run(narrow, run).model.transformer.config.width == 24


def test_a_text_condition_keeps_its_width_in_the_artifact(any_model, any_tokens, context, tmp_path):
    if any_model.transformer.config.text is None:
        return
    narrow = PruneWidth(keep=24, repair=False).run(any_model, context(any_model, tokens=any_tokens)).model
    artifact.save(narrow, tmp_path)
    loaded = artifact.load(tmp_path, Form.TORCH)
    assert loaded.transformer.config.inner == 32
    assert loaded.transformer.config == narrow.transformer.config


def test_passes_behind_it_are_repaired_towards_their_own_input_and_taught_by_logits(tiny_model, context):
    model = tiny_model()
    run = context(model, calibration=24)
    narrow = PruneWidth(keep=24).run(model, run).model
    outcome = PruneFfn(ratio=0.5, multiple=4).run(narrow, run)
    assert outcome.notes.repair.stream_error_after < outcome.notes.repair.stream_error_before
    taught = Distill(steps=3, warmup=0, validate_every=1).run(outcome.model, run)
    assert taught.notes.compared_layers == ()
    assert taught.notes.validation_kl_after < taught.notes.validation_kl_before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "prune-width: ratio 0 and keep 0: give exactly one of them, above 0"),
        ({"ratio": 0.5, "keep": 8}, "prune-width: ratio 0.5 and keep 8: give exactly one of them, above 0"),
    ],
)
def test_exactly_one_of_both_is_asked_for(settings, text):
    with pytest.raises(ContradictionError) as caught:
        PruneWidth(**settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("settings", "changes", "text"),
    [
        ({"keep": 33}, {}, "prune-width: the stream has 32 channels; keep 33 is more; use at most that"),
        (
            {"ratio": 0.99},
            {},
            "prune-width: the stream has 32 channels; ratio 0.99 would leave none; use at most 0.96",
        ),
        (
            {"keep": 24, "score": "pca"},
            {"tied_head": True},
            "prune-width: score pca: the stream cannot be turned, because the head is the table of embeddings, which "
            "cannot take the last norm's gain; use score: taylor",
        ),
    ],
)
def test_what_a_model_cannot_have_is_refused(tiny_model, context, settings, changes, text):
    with pytest.raises(PassError) as caught:
        PruneWidth(**settings).run(tiny_model(**changes), context())
    assert str(caught.value) == text


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError, match="prune-width: the model has 15 quantized layers; put prune-width before"):
        PruneWidth(keep=24).run(quantized, context())


def test_the_streams_of_a_repair_are_counted(tiny_model, tiny_tokens):
    model = tiny_model()
    assert PruneWidth(keep=24).keeps(model, tiny_tokens, 4) == 2 * 4 * 4 * 32 * model.transformer.config.reach
    assert PruneWidth(keep=24, repair=False).keeps(model, tiny_tokens, 4) == 0


def test_a_rotated_stream_is_refused(tiny_model, context):
    model = tiny_model()
    rotated = Rotate(stream=True, values=False, down="none").run(model, context(model)).model
    assert rotated.transformer.config.stream_rotation
    with pytest.raises(PassError, match="the stream's channels are rotated; put prune-width before rotate"):
        PruneWidth(ratio=0.25).run(rotated, context(model))
