"""Writers of every kind of block: what is behind them is what they add, gated, to what is there without them."""

from __future__ import annotations

import torch

from compress.passes.shared.blockwise import Streams
from compress.passes.shared.writers import gates, read, watched, writers


def test_a_writer_adds_its_gated_outputs_to_the_sum_behind_it(any_model, any_tokens):
    transformer = any_model.transformer
    block, streams = transformer.blocks[0], Streams(transformer, any_tokens.part("train", 3))
    inside = transformer.inside(streams.parts[0][1])
    for writer in writers(block):
        ((given, behind),) = watched(streams, block, writer)
        with torch.no_grad():
            linear = block.get_submodule(writer.name)
            added, gate = linear(given), gates(block, inside, writer)
            linear.weight.zero_()
            if linear.bias is not None:
                linear.bias.zero_()
        ((_, without),) = watched(streams, block, writer)
        torch.testing.assert_close(behind - without, added if gate is None else gate * added)
        assert added.abs().max() > 0


def test_every_layer_that_ends_in_the_stream_is_a_writer(any_model):
    block = any_model.transformer.blocks[0]
    ends = {name for name, _ in block.named_modules() if name.endswith((".output", "ffn.down"))}
    assert {writer.name for writer in writers(block)} == ends


def test_padding_of_a_text_is_read_by_nothing(any_model, any_tokens):
    streams = Streams(any_model.transformer, any_tokens.part("train", 2))
    x, around = streams.parts[0]
    positions = read(around, x)
    if any_model.shape.text is None or any_model.transformer.config.uvit:
        assert positions is None
    else:  # the first text has two rows of padding
        assert (~positions).nonzero().tolist() == [[0, 0], [0, 1]]
