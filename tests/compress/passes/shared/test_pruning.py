"""Structured pruning: dead groups leave without a trace, shapes shrink, counts are worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.models.transformer.architecture import LayerConfig
from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.pruning import (
    HEADS,
    UNITS,
    best,
    check_float,
    check_globally,
    check_per_layer,
    keep_groups,
    keep_layers,
    kept_globally,
    kept_per_layer,
    to_multiple,
)


@pytest.fixture
def given(any_model, any_tokens):
    return examples(any_model.shape, any_tokens.part("held_out", 4)).tensors()


def close(one, other):
    """Equal but for the order of float32 sums."""
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_removing_dead_heads_does_not_change_the_logits(any_model, given):
    model = any_model.transformer
    if model.config.qk_norm == "rms":
        pytest.skip("what remains of rms qk-norm is normalised over the remaining heads, so the logits do change")
    kept = []
    with torch.no_grad():
        for index, layer in enumerate(model.config.layers):
            dead = index % layer.kv_heads  # another one in every layer, where there are several
            width = 8 * layer.heads // layer.kv_heads
            groups = [group for group in range(layer.kv_heads) if group != dead] or [0]  # the only one stays
            if layer.kv_heads > 1:
                model.blocks[index].attention.output.weight[:, dead * width : (dead + 1) * width] = 0
            kept.append(torch.tensor(groups))
        smaller = keep_groups(model, HEADS, kept)
        close(smaller(*given), model(*given))
    for layer, old, groups in zip(smaller.config.layers, model.config.layers, kept, strict=True):
        assert layer.kv_heads == len(groups)
        assert layer.heads / layer.kv_heads == old.heads / old.kv_heads


def test_removing_dead_units_does_not_change_the_logits(any_model, given):
    model = any_model.transformer
    kept = [torch.tensor([unit for unit in range(40) if unit % 3 != index]) for index in range(2)]
    with torch.no_grad():
        for index in range(2):
            model.blocks[index].ffn.down.weight[:, index::3] = 0
        smaller = keep_groups(model, UNITS, kept)
        close(smaller(*given), model(*given))
    assert [layer.ffn for layer in smaller.config.layers] == [26, 27]
    assert smaller.blocks[0].ffn.up.weight.shape == (26, 32)
    assert smaller.blocks[1].ffn.down.weight.shape == (32, 27)


def test_a_head_takes_its_query_key_value_and_output_weights_with_it(tiny_model):
    model = tiny_model(kv_heads=2, bias=True).transformer
    attention = keep_groups(model, HEADS, [torch.tensor([1]), torch.tensor([0, 1])]).blocks[0].attention
    old = model.blocks[0].attention
    assert torch.equal(attention.query.weight, old.query.weight[16:])
    assert torch.equal(attention.query.bias, old.query.bias[16:])
    assert torch.equal(attention.key.weight, old.key.weight[8:])
    assert torch.equal(attention.value.bias, old.value.bias[8:])
    assert torch.equal(attention.output.weight, old.output.weight[:, 16:])
    assert torch.equal(attention.output.bias, old.output.bias), "the output's bias belongs to no head"


def test_layers_without_effect_can_go(any_model, given):
    model = any_model.transformer
    with torch.no_grad():
        branches = [model.blocks[0].attention.output, model.blocks[0].ffn.down]
        if model.config.uvit:
            branches.append(model.blocks[0].text.output)
        for linear in branches:
            for parameter in linear.parameters():
                parameter.zero_()
        if model.config.post_norm:  # what is normalised already stays as it is, if no norm stretches
            for norm in (model.embedding_norm, model.blocks[0].attention_norm, model.blocks[0].ffn_norm):
                norm.reset_parameters()
        shallower = keep_layers(model, [1])
        close(shallower(*given), model(*given))
    assert len(shallower.blocks) == len(shallower.config.layers) == 1


def test_layers_keep_their_own_widths_and_order(tiny_model):
    widths = tuple(LayerConfig(heads, heads, ffn) for heads, ffn in ((1, 8), (2, 16), (3, 24)))
    model = tiny_model().transformer
    model = type(model)(model.config.with_layers(widths))
    kept = keep_layers(model, [0, 2])
    assert kept.config.layers == (widths[0], widths[2])
    assert torch.equal(kept.blocks[1].ffn.up.weight, model.blocks[2].ffn.up.weight)


def test_the_smaller_model_shares_no_memory_with_the_larger(tiny_model):
    model = tiny_model().transformer
    smaller = keep_groups(model, UNITS, [torch.arange(40)] * 2)
    before = model.norm.weight.detach().clone()
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()
    assert torch.equal(model.norm.weight, before)
    assert not smaller.training


def test_every_layer_loses_the_same_share() -> None:
    assert kept_per_layer([4, 8], 0.25) == [3, 6]
    assert kept_per_layer([100, 50], 0.3, multiple=16) == [64, 32]  # 70 -> 64, 35 -> 32
    assert kept_per_layer([40, 20], 0.0, multiple=16) == [40, 20], "nothing asked, nothing removed"


def test_the_nearest_multiple_is_kept_but_at_least_one_and_at_most_all() -> None:
    assert [to_multiple(kept, 32, 100) for kept in (1, 40, 50, 99, 100)] == [32, 32, 64, 96, 100]
    assert to_multiple(10, 32, 20) == 20


def test_a_ratio_that_leaves_a_layer_no_head_is_refused_with_one_that_works() -> None:
    with pytest.raises(PassError) as caught:
        check_per_layer("heads", [8, 4], 0.9)
    assert str(caught.value) == "layer 1 has 4 heads; ratio 0.9 would leave none; use at most 0.75"
    check_per_layer("heads", [8, 4], 0.75)
    assert kept_per_layer([8, 4], 0.75) == [2, 1]
    with pytest.raises(PassError, match=r"layer 0 has 3 heads; ratio 1 would leave none; use at most 0\.66"):
        check_per_layer("heads", [3], 1.0)


def test_globally_the_least_important_go_and_every_layer_keeps_its_best() -> None:
    scores = [torch.tensor([0.1, 0.3, 0.2, 0.05]), torch.tensor([9.0, 0.15, 7.0, 8.0])]
    assert kept_globally(scores, 0.5) == [1, 3]  # 0.05, 0.1, 0.15, 0.2 go
    assert kept_globally(scores, 0.75) == [1, 1], "0.3 is its layer's best and stays"


def test_a_global_ratio_that_leaves_a_layer_none_is_refused_with_one_that_works() -> None:
    with pytest.raises(PassError) as caught:
        check_globally("heads", [4, 2], 0.9)
    assert str(caught.value) == "2 layers have 6 heads in all; ratio 0.9 would leave a layer none; use at most 0.66"
    check_globally("heads", [4, 2], 0.66)
    assert kept_globally([torch.rand(4), torch.rand(2)], 0.66) == [1, 1]


def test_the_best_keep_their_order_in_the_layer() -> None:
    chosen = best([torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])], [3])
    assert isinstance(chosen[0], Tensor)
    assert chosen[0].tolist() == [0, 2, 4]


def test_pruning_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError) as caught:
        check_float(quantized, "prune-ffn")
    assert str(caught.value) == "the model has 15 quantized layers; put prune-ffn before quantize"
