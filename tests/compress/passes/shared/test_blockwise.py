"""Streams, block by block, against the whole model run at once."""

from __future__ import annotations

import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes.shared.blockwise import TOGETHER, Streams, seen_inputs


@pytest.fixture
def pictures(any_tokens):
    return any_tokens.part("train", TOGETHER + 3)


def test_streams_that_went_through_every_block_predict_what_the_model_predicts(any_model, pictures):
    transformer = any_model.transformer
    streams = Streams(transformer, pictures)
    for block in transformer.blocks:
        streams.advance(block)
    batches = examples(transformer.config.shape, pictures).chunks(TOGETHER)
    for logits, batch in zip(streams.logits(), batches, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(logits, transformer(*batch.tensors()), rtol=0, atol=0)


def test_a_block_shows_what_goes_into_its_layers_and_stays_where_it_is(any_model, pictures):
    transformer = any_model.transformer
    block, seen, whole = transformer.blocks[1], [], []
    streams = Streams(transformer, pictures)
    streams.advance(transformer.blocks[0])
    streams.watch(block, ["ffn.down"], lambda name, x: seen.append(x))
    first = seen.copy()
    streams.watch(block, ["ffn.down"], lambda name, x: seen.append(x))
    torch.testing.assert_close(torch.cat(first), torch.cat(seen[len(first) :]), rtol=0, atol=0)
    with torch.no_grad(), seen_inputs(transformer, ["blocks.1.ffn.down"], lambda name, x: whole.append(x)):
        for batch in examples(transformer.config.shape, pictures).chunks(TOGETHER):
            transformer(*batch.tensors())
    torch.testing.assert_close(torch.cat(first), torch.cat(whole), rtol=0, atol=0)


def test_nothing_is_watched_any_more_behind_an_error(any_model, pictures):
    block = any_model.transformer.blocks[0]

    def see(name, x):
        raise ValueError(name)

    with pytest.raises(ValueError, match=r"^ffn\.down$"):
        Streams(any_model.transformer, pictures).watch(block, ["ffn.down"], see)
    assert not block.get_submodule("ffn.down")._forward_pre_hooks


def test_streams_that_are_read_side_by_side_leave_gradients_on(tiny_model, tiny_tokens):
    first, second = (Streams(tiny_model().transformer, tiny_tokens.part("train", 12)) for _ in range(2))
    for one, other in zip(first.logits(), second.logits(), strict=False):
        assert not one.requires_grad
        assert torch.is_grad_enabled()
        torch.testing.assert_close(one, other)
    for one, other in zip(first.through(first.transformer.blocks[0]), second.logits(), strict=False):
        assert not one.requires_grad
        assert not other.requires_grad
    assert torch.is_grad_enabled()
