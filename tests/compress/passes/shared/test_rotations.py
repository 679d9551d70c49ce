"""Rotations of weights against the same done by hand on chains of products."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.hadamard import mean_keeping, rotation
from compress.passes.shared.rotations import (
    absorb,
    down_obstacle,
    prepared,
    stream_obstacle,
    turn,
    turn_stream,
    turn_units,
    turn_values,
)


def close(one, other) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_chain_of_a_writer_and_a_reader_is_turned_as_by_hand() -> None:
    """y = R W x is (R Q^T) (Q W) x."""
    writer, reader = nn.Linear(3, 2, bias=False), nn.Linear(2, 4, bias=False)
    before = reader.weight @ writer.weight
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    rows = writer.weight.detach().clone()
    turn(writer.weight, matrix, 0)
    turn(reader.weight, matrix, 1)
    close(writer.weight[0], 0.6 * rows[0] - 0.8 * rows[1])
    close(writer.weight[1], 0.8 * rows[0] + 0.6 * rows[1])
    close(reader.weight @ writer.weight, before)


def test_a_layer_absorbs_gain_and_shift_of_the_norm_before_it() -> None:
    norm, linear = nn.LayerNorm(2), nn.Linear(2, 1)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0]))
        norm.bias.copy_(torch.tensor([5.0, 7.0]))
        linear.weight.copy_(torch.tensor([[1.0, 10.0]]))
        linear.bias.fill_(4.0)
    absorb(norm, (linear,))
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([1, 1], [0, 0])
    assert (linear.weight.tolist(), linear.bias.tolist()) == ([[2, 30]], [4 + 5 + 70])


def test_values_and_outputs_of_grouped_heads_are_turned_head_by_head(tiny_model) -> None:
    before = tiny_model(kv_heads=2, bias=True).transformer
    made = prepared(before, stream=0, down=0)
    turn_values(made, 1)
    matrix = rotation(8, 1).float()
    old, new = before.blocks[1].attention, made.blocks[1].attention
    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        close(new.value.weight[rows], matrix @ old.value.weight[rows])
        close(new.value.bias[rows], matrix @ old.value.bias[rows])
    for head in range(4):
        columns = slice(8 * head, 8 * head + 8)
        close(new.output.weight[:, columns], old.output.weight[:, columns] @ matrix.T)


def test_ffn_down_undoes_the_rotation_in_front_of_it(tiny_model) -> None:
    before = tiny_model(ffn=48).transformer
    made = prepared(before, stream=0, down=16)
    turn_units(made)
    units = torch.randn(3, 48)
    old, new = before.blocks[0].ffn, made.blocks[0].ffn
    signs = new.rotation(torch.eye(48)) * 4  # of 1 / sqrt(16)
    assert signs[:16, :16].abs().round().eq(1).all()
    assert not signs[:16, 16:].any()
    close(new.down(new.rotation(units)), old.down(units))


def test_the_streams_are_the_old_ones_turned(tiny_model, tiny_tokens) -> None:
    from compress.models.transformer.examples import examples

    before = tiny_model(norm="layernorm", bias=True, positions="learned").transformer
    made = prepared(before, stream=5, down=0)
    turn_stream(made)
    matrix = mean_keeping(32, 5).float()
    inputs, _ = examples(before.config.shape, tiny_tokens.part("held_out", 2)).tensors()
    with torch.no_grad():
        for old, new in zip(
            before.layer_outputs(*before.prepare(inputs)), made.layer_outputs(*made.prepare(inputs)), strict=True
        ):
            close(new, old @ matrix.T)
            close(made.unrotated(new), old)
            close(made.rotated(old), new)


def config(**changes) -> TransformerConfig:
    given = {"vocabulary": 17, "classes": 10, "grid": (8, 8), "width": 32, "head_width": 8,
             "layers": (LayerConfig(4, 4, 64), LayerConfig(4, 4, 48))}  # fmt: skip
    return TransformerConfig(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"norm": "layernorm", "tied_head": True}, None),
        ({"width": 8200}, "the stream is 8200 wide, and its rotation has at most 8192 channels"),
        ({"stream_rotation": 1}, "the stream is rotated already"),
        ({"modulation": "class"}, "modulation by class scales and shifts the stream's channels one by one"),
        (
            {"order": "masked", "positions": "learned", "post_norm": True},
            "the stream goes through norms, whose gains scale its channels one by one",
        ),
        (
            {"positions": "learned", "embedding_norm": True},
            "the stream goes through norms, whose gains scale its channels one by one",
        ),
    ],
)
def test_what_keeps_a_stream_from_being_rotated_is_said(changes, reason) -> None:
    assert stream_obstacle(config(**changes)) == reason


def test_what_keeps_units_from_being_rotated_is_said() -> None:
    assert down_obstacle(config(), 16) is None
    assert down_obstacle(config(), 32) == "layer 1 has 48 units, which blocks of 32 do not fill"
    assert down_obstacle(config(down_rotation=16), 16) == "the units are rotated already"
