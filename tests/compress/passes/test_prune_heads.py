"""prune-heads: the right heads go, and the parameters that are left are counted by hand."""

from __future__ import annotations

import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.prune_heads import PruneHeads
from compress.passes.quantize import Quantize
from compress.passes.reconstruct import Reconstruct

# width 32: embedding 28 x 32 = 896; a layer 4 x 32 x 32 (attention) + 3 x 32 x 40 (feed-forward) + 64 (norms) = 8000;
# last norm 32; head 17 x 32 = 544.
PARAMETERS = 896 + 2 * 8000 + 32 + 544


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_half_the_heads_take_half_of_attention_with_them(tiny_model, context, score):
    model = tiny_model()
    assert model.parameters() == PARAMETERS
    outcome = PruneHeads(ratio=0.5, score=score, repair=False).run(model, context(model))
    assert outcome.model.parameters() == PARAMETERS - 2 * 2 * (4 * 8 * 32)  # layers, heads, their four 8 x 32 slices
    assert outcome.notes.written() == {"removed": 4, "of": 8, "kept_per_layer": [2, 2]}
    assert outcome.model.transformer.blocks[0].attention.query.weight.shape == (16, 32)
    assert model.parameters() == PARAMETERS, "the input is left as it was"
    assert outcome.model.score(examples(model.shape, context().calibration_tokens()).inputs).shape == (
        8,
        64,
        17,
    )


def test_a_key_value_head_goes_with_its_query_heads(tiny_model, context):
    model = tiny_model(kv_heads=2)
    before = model.parameters()
    outcome = PruneHeads(ratio=0.5).run(model, context(model))
    # two query heads (8 rows each), one key and one value head, and two heads' output columns
    assert before - outcome.model.parameters() == 2 * (16 * 32 + 2 * 8 * 32 + 32 * 16)
    assert [(layer.heads, layer.kv_heads) for layer in outcome.model.transformer.config.layers] == [(2, 1), (2, 1)]


def test_biases_go_with_their_heads(tiny_model, context):
    model = tiny_model(norm="layernorm", activation="gelu", positions="learned", bias=True)
    outcome = PruneHeads(ratio=0.25).run(model, context(model))
    assert model.parameters() - outcome.model.parameters() == 2 * (4 * 8 * 32 + 3 * 8)


def test_taylor_removes_dead_heads_first_and_the_logits_stay(tiny_model, tiny_tokens, context):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.blocks[0].attention.output.weight[:, 8:16] = 0
        model.transformer.blocks[1].attention.output.weight[:, 24:32] = 0
    outcome = PruneHeads(ratio=0.25).run(model, context(model))
    inputs = examples(model.shape, tiny_tokens.part("held_out", 4)).inputs
    torch.testing.assert_close(
        torch.from_numpy(outcome.model.score(inputs)), torch.from_numpy(model.score(inputs)), atol=1e-5, rtol=1e-5
    )


def test_global_scope_takes_heads_where_they_matter_least(tiny_model, context):
    model = tiny_model()
    with torch.no_grad():
        for name in ("query", "key", "value", "output"):
            getattr(model.transformer.blocks[1].attention, name).weight *= 0.01
    outcome = PruneHeads(ratio=0.375, score="magnitude", scope="global").run(model, context(model))
    assert outcome.notes.kept_per_layer == (4, 1)


def test_no_ratio_changes_nothing(tiny_model, context):
    model = tiny_model()
    pruned = PruneHeads(ratio=0.0).run(model, context(model)).model.transformer.state_dict()
    for name, value in model.transformer.state_dict().items():
        assert torch.equal(value, pruned[name])


@pytest.mark.parametrize(
    ("changes", "scope", "text"),
    [
        ({}, "layer", "prune-heads: layer 0 has 4 heads; ratio 0.9 would leave none; use at most 0.75"),
        ({"kv_heads": 2}, "layer", "prune-heads: layer 0 has 2 key/value heads; ratio 0.9 would leave none; "),
        (
            {},
            "global",
            "prune-heads: 2 layers have 8 heads in all; ratio 0.9 would leave a layer none; use at most 0.75",
        ),
    ],
)
def test_leaving_no_head_is_refused(tiny_model, context, changes, scope, text):
    with pytest.raises(PassError) as caught:
        PruneHeads(ratio=0.9, scope=scope).run(tiny_model(**changes), context())
    assert text in str(caught.value)


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(
        PassError, match="prune-heads: the model has 15 quantized layers; put prune-heads before quantize"
    ):
        PruneHeads(ratio=0.5).run(quantized, context())


def test_what_heads_did_is_made_up_for(tiny_model, context):
    model = tiny_model()
    run = context(model, calibration=24)
    won = PruneHeads(ratio=0.25).run(model, run).notes.repair
    assert won.stream_error_after < 0.9 * won.stream_error_before
    assert PruneHeads(ratio=0.25, repair=False).run(model, run).notes.repair is None


def test_a_norm_over_all_heads_is_set_right_for_those_that_are_left(tiny_model, tiny_tokens, context):
    model = tiny_model(order="masked", positions="learned", qk_norm="rms")
    with torch.no_grad():  # the second head is 0, so the mean square of the others is 4/3 of that of all
        for block in model.transformer.blocks:
            for linear in (block.attention.query, block.attention.key):
                linear.weight[8:16] = 0
            block.attention.output.weight[:, 8:16] = 0
    run = context(model)
    once = PruneHeads(ratio=0.25).run(model, run).model
    assert once.transformer.config.qk_norm == "rms-stretch"
    for block in once.transformer.blocks:
        torch.testing.assert_close(block.attention.stretch, torch.full((3,), 4 / 3))
    inputs = examples(model.shape, tiny_tokens.part("held_out", 4)).inputs
    whole, left = (torch.from_numpy(each.score(inputs)) for each in (model, once))
    torch.testing.assert_close(left, whole, atol=1e-3, rtol=1e-3)
    assert (
        left - torch.from_numpy(PruneHeads(ratio=0.25, repair=False).run(model, run).model.score(inputs))
    ).abs().max() > 0.01


def test_heads_that_go_later_are_set_right_on_top_of_it(tiny_model, context):
    model = tiny_model(order="masked", positions="learned", qk_norm="rms", kv_heads=2)
    twice = PruneHeads(ratio=0.5).run(model, context(model)).model.transformer
    assert [block.attention.stretch.shape for block in twice.blocks] == [(2,), (2,)]
    once = PruneHeads(ratio=0.0).run(model, context(model)).model.transformer
    assert all((block.attention.stretch == 1).all() for block in once.blocks)


def test_a_reference_of_another_shape_is_refused(tiny_model, context):
    with pytest.raises(PassError, match="prune-heads: the reference has classes 3, the model 10; they must be equal"):
        PruneHeads(ratio=0.25).run(tiny_model(), context(tiny_model(classes=3)))


def test_the_streams_of_a_repair_are_counted(tiny_model, tiny_tokens):
    model = tiny_model()
    assert PruneHeads(ratio=0.5).keeps(model, tiny_tokens, 16) == Reconstruct().keeps(model, tiny_tokens, 16) > 0
    assert PruneHeads(ratio=0.5, repair=False).keeps(model, tiny_tokens, 16) == 0
