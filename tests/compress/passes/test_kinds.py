"""Every pass on every kind of model: it runs, its model scores finite numbers, and what is to shrink has shrunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import quantizations
from compress.passes.distill import Distill
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_heads import PruneHeads
from compress.passes.prune_layers import PruneLayers
from compress.passes.quantize import Quantize
from compress.passes.shared.pruning import HEADS, keep_groups


@pytest.fixture
def passed(any_model, any_tokens, context):
    """The outcome of a pass on a kind's model, which scores finite numbers."""

    def run(applied):
        ours = context(any_model, tokens=any_tokens, calibration=4)
        outcome = applied.run(any_model, ours)
        batch = examples(any_model.shape, any_tokens.part("held_out", 2))
        for model in (any_model, outcome.model):
            logits = model.score(batch.inputs, batch.features)
            assert logits.shape == (2, 64, any_model.shape.predicted)
            assert np.isfinite(logits).all()
        assert outcome.model.shape == any_model.shape
        return outcome

    return run


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_heads_go(passed, any_model, score) -> None:
    if any_model.transformer.config.layers[0].kv_heads == 1:
        pytest.skip("its only key/value head stays")
    pruned = passed(PruneHeads(ratio=0.5, score=score)).model
    for block, before in zip(pruned.transformer.blocks, any_model.transformer.blocks, strict=True):
        assert block.attention.query.weight.shape[0] * 2 == before.attention.query.weight.shape[0]
        assert block.attention.output.weight.shape[1] * 2 == before.attention.output.weight.shape[1]


def test_units_go(passed) -> None:
    pruned = passed(PruneFfn(ratio=0.5, multiple=1)).model
    assert [layer.ffn for layer in pruned.transformer.config.layers] == [20, 20]
    assert pruned.transformer.blocks[0].ffn.down.weight.shape == (32, 20)


@pytest.mark.parametrize("score", ["magnitude", "removal"])
def test_layers_go(passed, score) -> None:
    assert len(passed(PruneLayers(count=1, score=score)).model.transformer.blocks) == 1


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_every_linear_layer_of_the_blocks_is_quantized(passed, any_model, any_tokens, dynamic) -> None:
    outcome = passed(Quantize(activations="int8", dynamic=dynamic, head="float"))
    quantized = outcome.model.transformer
    assert sorted(quantizations(quantized)) == sorted(name for name, _ in any_model.transformer.linears())
    batch = examples(any_model.shape, any_tokens.part("held_out", 2))
    exact, rounded = (model.score(batch.inputs, batch.features) for model in (any_model, outcome.model))
    assert np.abs(rounded - exact).mean() < 0.2 * exact.std()


def test_a_pruned_model_is_taught(passed, any_model, any_tokens, context) -> None:
    ours = context(any_model, tokens=any_tokens, calibration=4)
    smaller = PruneFfn(ratio=0.5, multiple=1, score="magnitude").run(any_model, ours).model
    outcome = Distill(steps=2, batch=8, learning_rate=1e-4, warmup=0, validate_every=1).run(smaller, ours)
    assert outcome.notes.steps == 2
    assert np.isfinite(outcome.notes.validation_kl_after)
    assert outcome.model.transformer.config == smaller.transformer.config


def test_a_head_takes_its_stretch_of_l2_norm_with_it(tiny_model) -> None:
    model = tiny_model(kv_heads=2, qk_norm="l2").transformer
    smaller = keep_groups(model, HEADS, [torch.tensor([1]), torch.tensor([0])])
    for index, kept in enumerate((slice(2, 4), slice(0, 2))):
        assert torch.equal(smaller.blocks[index].attention.stretch, model.blocks[index].attention.stretch[kept])


def test_what_is_left_of_heads_that_are_normalised_together_is_normalised_over_the_rest(tiny_model) -> None:
    # Removing a head of rms qk-norm changes what the others are divided by, so a dead head does not go without a trace.
    model = tiny_model(qk_norm="rms", layers=1).transformer
    smaller = keep_groups(model, HEADS, [torch.tensor([0, 1])])
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    attention = smaller.blocks[0].attention
    with torch.no_grad():
        heads = attention.query(x).unflatten(-1, (-1, 8)).transpose(1, 2)
        mean = heads.transpose(1, 2).flatten(2).square().mean(-1)
        wanted = heads / (mean + 1e-5).sqrt()[:, None, :, None]
        torch.testing.assert_close(attention.query_norm(heads), wanted)
