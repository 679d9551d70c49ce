"""The repair of a narrower stream: what least squares can make up for, it does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress.passes import PassError
from compress.passes.shared.channels import keep_channels
from compress.passes.shared.narrow_repair import conditioned, conditions, last_readers, repair_narrow

KEPT = torch.arange(24)


def test_modulation_of_every_class_and_of_none_is_made_up_for(tiny_model, context):
    model = tiny_model(modulation="class")
    wide, narrow = model.transformer, keep_channels(model.transformer, KEPT)
    names = conditioned(narrow)
    assert names == ["blocks.0.modulation.linear", "blocks.1.modulation.linear", "final_modulation.linear"]

    def error():
        """Squared error of what modulates all classes, over its squares."""
        noise = signal = 0.0
        for name in names:
            made = narrow.get_submodule(name)(functional.silu(conditions(narrow))).unflatten(-1, (-1, 24))
            wanted = wide.get_submodule(name)(functional.silu(conditions(wide))).unflatten(-1, (-1, 32))[..., :24]
            noise, signal = noise + (made - wanted).square().sum().item(), signal + wanted.square().sum().item()
        return noise / signal

    with torch.no_grad():
        before = error()
        notes = repair_narrow(narrow, wide, KEPT, context(model))
        assert error() < 0.03 * before, "11 vectors can be told apart by 24 numbers"
    assert notes.kept is None


def test_classes_stand_at_every_position_where_both_modulate(tiny_model):
    transformer = tiny_model(
        lead=1, positions="learned", modulation="class-position", norm="layernorm", qk_norm="layernorm"
    ).transformer
    made = conditions(transformer)
    reach = transformer.config.reach
    assert made.shape == (11 * reach, 32)
    expected = transformer.class_vector(torch.tensor([2])) + transformer.moment(torch.tensor([5]))
    torch.testing.assert_close(made[2 * reach + 5 : 2 * reach + 6], expected)


def test_readers_make_up_for_a_channel_that_another_repeats(tiny_model, context):
    model = tiny_model()
    wide = model.transformer
    with torch.no_grad():  # channels 24 to 31 are twice those of 0 to 7
        wide.embedding.weight[:, 24:] = 2 * wide.embedding.weight[:, :8]
        for block in wide.blocks:
            for linear in (block.attention.output, block.ffn.down):
                linear.weight[24:] = 2 * linear.weight[:8]
    narrow = keep_channels(wide, KEPT)
    notes = repair_narrow(narrow, wide, KEPT, context(model, calibration=48))
    assert notes.stream_error_after < 0.4 * notes.stream_error_before
    assert notes.layers == 2 * 7 + 1


def test_a_head_that_is_the_embedding_is_left(tiny_model, context):
    model = tiny_model(tied_head=True)
    narrow = keep_channels(model.transformer, KEPT)
    assert last_readers(narrow) == []
    assert repair_narrow(narrow, model.transformer, KEPT, context(model)).layers == 2 * 7
    assert torch.equal(narrow.embedding.weight, model.transformer.embedding.weight[:, :24])


def test_numbers_that_are_not_finite_are_refused_by_the_name_of_the_layer(tiny_model, context):
    model = tiny_model()
    narrow = keep_channels(model.transformer, KEPT)
    with torch.no_grad():
        narrow.blocks[1].ffn_norm.weight[0] = float("nan")
    with pytest.raises(PassError) as caught:
        repair_narrow(narrow, model.transformer, KEPT, context(model))
    assert str(caught.value) == "blocks.1.ffn.gate: what goes into it, or what is missing behind it, holds NaN or Inf"
