"""Channels of the stream: every tensor that carries them is declared, and what stays computes what it did."""

from __future__ import annotations

import copy
import re

import torch
from torch import nn

from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.channels import (
    READERS,
    TABLES,
    channel_axes,
    is_writer,
    keep_channels,
    narrowed,
    turned,
)
from compress.passes.shared.narrow_norms import norms

KEPT = torch.tensor([0, 1, 3, 4, 5, 7, 8, 10, 11, 12, 14, 15, 17, 19, 20, 21, 22, 25, 26, 27, 28, 29, 30, 31])


class MaskedNorm(nn.Module):
    """A norm of some channels alone; the others are 0."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, S, 32)."""
        made = torch.zeros_like(x)
        made[..., KEPT] = self.norm(x[..., KEPT])
        return made


def masked(wide: TokenTransformer, narrow: TokenTransformer) -> TokenTransformer:
    """The wide model where nothing is written into the other channels, no norm sees them, and nothing reads them."""
    made = copy.deepcopy(wide)
    dead = torch.ones(32, dtype=torch.bool)
    dead[KEPT] = False
    state = made.state_dict()
    for place in channel_axes(wide):
        writes = re.fullmatch(TABLES, place.name) or (is_writer(place.name) and place.axis == 0)
        reads = re.fullmatch(READERS, place.name) and place.axis == 1
        if writes or reads:
            rows = dead.expand(place.parts, 32)[..., None].expand(-1, -1, place.each).flatten()
            state[place.name].movedim(place.axis, 0)[rows] = 0
    for name in norms(wide):
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, MaskedNorm(narrow.get_submodule(name)))
    return made.eval()


def check_masked(wide, batch):
    narrow = keep_channels(wide, KEPT)
    with torch.no_grad():
        torch.testing.assert_close(narrow(*batch), masked(wide, narrow)(*batch), rtol=1e-4, atol=1e-4)
    return narrow


def test_what_stays_computes_what_it_did_where_the_rest_is_zero(any_model, any_tokens):
    batch = examples(any_model.shape, any_tokens.part("held_out", 3)).tensors()
    narrow = check_masked(any_model.transformer, batch)
    assert narrow.config.width == 24
    assert narrow.config.layers == any_model.transformer.config.layers


def test_positions_that_are_merged_have_channels_too(tiny_model, tiny_tokens):
    model = tiny_model(order="masked", positions="learned", patch=2, outputs=18)
    check_masked(model.transformer, examples(model.shape, tiny_tokens.part("held_out", 3)).tensors())


def test_every_tensor_that_a_narrower_model_has_smaller_is_declared_and_no_other(any_model):
    transformer = any_model.transformer
    declared = {(place.name, place.axis) for place in channel_axes(transformer)}
    narrow = TokenTransformer(narrowed(transformer.config, 24)).state_dict()
    found = {
        (name, axis)
        for name, value in transformer.state_dict().items()
        for axis, size in enumerate(value.shape)
        if narrow[name].shape[axis] != size
    }
    assert declared == found


def test_only_layers_of_a_text_keep_their_width(any_model):
    config = any_model.transformer.config
    assert narrowed(config, 24).inner == (32 if config.text else 24)
    assert narrowed(narrowed(config, 24), 16).inner == (32 if config.text else 16)


def test_all_channels_are_the_model_itself(any_model):
    made = keep_channels(any_model.transformer, torch.arange(32))
    assert made.config == any_model.transformer.config
    for name, value in any_model.transformer.state_dict().items():
        assert torch.equal(value, made.state_dict()[name])


def test_norms_without_a_gain_get_one(tiny_model):
    narrow = keep_channels(tiny_model(norm_affine=False, final_affine=False, norm="layernorm").transformer, KEPT)
    assert narrow.blocks[0].ffn_norm.weight.tolist() == [1.0] * 24
    assert narrow.norm.bias.tolist() == [0.0] * 24


def test_another_basis_changes_nothing_where_norms_have_no_gain(tiny_model, tiny_tokens):
    model = tiny_model(norm_affine=False, final_affine=False, bias=True)
    basis = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    batch = examples(model.shape, tiny_tokens.part("held_out", 3)).tensors()
    other = turned(model.transformer, basis)
    with torch.no_grad():
        torch.testing.assert_close(other(*batch), model.transformer(*batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.embedding.weight, model.transformer.embedding.weight @ basis.float())
