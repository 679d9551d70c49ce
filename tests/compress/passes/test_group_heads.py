"""group-heads: means worked by hand, exact where neighbours are equal, and a smaller cache."""

from __future__ import annotations

import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.group_heads import GroupHeads, mean_of_neighbours
from compress.passes.quantize import Quantize
from compress.passes.reconstruct import Reconstruct


def logits(model, tokens):
    batch = examples(model.shape, tokens.part("held_out", 4))
    return torch.from_numpy(model.score(batch.inputs, batch.features))


def test_neighbours_become_their_mean():
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0], [10.0], [20.0], [30.0], [40.0]])  # four heads of two rows
    assert mean_of_neighbours(rows, 2, 2).tolist() == [[2.0], [3.0], [20.0], [30.0]]


def test_neighbours_that_are_equal_lose_nothing(any_model, any_tokens, context):
    config = any_model.transformer.config
    if config.layers[0].kv_heads % 2:
        pytest.skip("its only key/value head stays")
    with torch.no_grad():
        for block in any_model.transformer.blocks:
            for linear in (block.attention.key, block.attention.value):
                for parameter in linear.parameters():
                    heads = parameter.unflatten(0, (-1, 2, config.head_width))
                    heads[:, 1] = heads[:, 0]
    half = config.layers[0].kv_heads // 2
    made = GroupHeads(kv_heads=half, repair=False).run(any_model, context(any_model, tokens=any_tokens)).model
    assert [layer.kv_heads for layer in made.transformer.config.layers] == [half, half]
    torch.testing.assert_close(logits(made, any_tokens), logits(any_model, any_tokens), rtol=1e-4, atol=1e-4)


def test_the_cache_is_smaller_and_what_was_lost_is_made_up_for(tiny_model, context):
    model = tiny_model()
    outcome = GroupHeads(kv_heads=1).run(model, context(model, calibration=24))
    notes = outcome.notes
    assert notes.cache_bytes_before == 2 * 2 * 4 * 4 * 8 * model.transformer.config.reach  # keys, values; two layers
    assert notes.cache_bytes_after * 4 == notes.cache_bytes_before
    assert [each.key.shape[1] for each in outcome.model.transformer.empty_cache(1)] == [1, 1]
    assert notes.repair.stream_error_after < 0.9 * notes.repair.stream_error_before
    assert model.parameters() - outcome.model.parameters() == 2 * 2 * 3 * 8 * 32


def test_an_order_without_a_cache_has_nothing_to_make_smaller(tiny_model, context):
    model = tiny_model(order="masked", positions="learned")
    notes = GroupHeads(kv_heads=2, repair=False).run(model, context(model)).notes
    assert (notes.cache_bytes_before, notes.cache_bytes_after, notes.repair) == (0, 0, None)


def test_a_number_that_does_not_divide_the_heads_is_refused(tiny_model, context):
    with pytest.raises(PassError) as caught:
        GroupHeads(kv_heads=3).run(tiny_model(), context())
    assert str(caught.value) == (
        "group-heads: layer 0 has 4 key/value heads; kv_heads 3 does not divide them; use one of 1, 2, 4"
    )


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError, match="group-heads: the model has 15 quantized layers; put group-heads before"):
        GroupHeads(kv_heads=2).run(quantized, context())


def test_the_streams_of_a_repair_are_counted(tiny_model, tiny_tokens):
    model = tiny_model()
    assert GroupHeads(kv_heads=2).keeps(model, tiny_tokens, 16) == Reconstruct().keeps(model, tiny_tokens, 16)
    assert GroupHeads(kv_heads=2, repair=False).keeps(model, tiny_tokens, 16) == 0
