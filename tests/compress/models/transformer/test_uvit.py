"""The parts around the blocks of a U-ViT, worked by hand, and the configs that are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.conditioned import CrossAttention, Steer, sinusoids
from compress.models.transformer.uvit import ResponseNorm, UvitConfig, as_map, as_rows
from export.runtime.shape import TextShape

UVIT = UvitConfig(
    embedding=8,
    channels=8,
    depth=1,
    heads=2,
    cross_heads=2,
    text_width=4,
    pooled_width=4,
    size=(16.0, 16.0, 0.0, 0.0, 6.0),
    size_width=4,
)
CONFIG = TransformerConfig(
    vocabulary=5,
    classes=1,
    grid=(4, 4),
    width=8,
    head_width=4,
    layers=(LayerConfig(2, 2, 8),),
    activation="geglu",
    positions="none",
    order="masked",
    modulation="text",
    text=TextShape(3, 4),
    uvit=UVIT,
)


def test_a_number_is_cosines_and_then_sines_of_falling_frequencies():
    found = sinusoids((2.0, 0.0), 4)
    wanted = [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02), 1, 1, 0, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_channel_is_scaled_by_its_share_of_the_energy():
    norm = ResponseNorm(2)
    torch.nn.init.constant_(norm.weight, 0.5)
    x = torch.tensor([[[3.0, 1.0], [4.0, 0.0]]])  # energies 5 and 1, of which the mean is 3
    with torch.no_grad():
        np.testing.assert_allclose(norm(x), [[[3 + 1.5 * 5 / 3, 1 + 0.5 / 3], [4 + 2 * 5 / 3, 0]]], rtol=1e-5)


def test_a_map_and_its_rows_are_the_same_numbers():
    rows = torch.arange(12.0).view(1, 6, 2)
    assert torch.equal(as_map(rows, (2, 3))[0, 1], torch.tensor([[1.0, 3, 5], [7, 9, 11]]))
    assert torch.equal(as_rows(as_map(rows, (2, 3))), rows)


def test_a_vector_scales_first_and_shifts_then():
    steer = Steer(1, 1)
    with torch.no_grad():
        steer.linear.weight.copy_(torch.tensor([[2.0], [3.0]]))
        silu = 1 / (1 + np.exp(-1))
        found = steer(torch.tensor([[[10.0]]]), torch.tensor([[[1.0]]]))
    np.testing.assert_allclose(found, [[[10 * (1 + 2 * silu) + 3 * silu]]], rtol=1e-6)


def test_cross_attention_is_pytorchs_own():
    own, theirs = CrossAttention(8, 8, 2, 8), torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    x, states = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.out_proj.weight.copy_(own.output.weight)
        torch.testing.assert_close(own(x, states), theirs(x, states, states)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "heads 3: must divide the 8 channels"),
        ({"size_width": 5}, "size_width 5: must be even, for a cosine and a sine of each frequency"),
    ],
)
def test_a_stem_that_no_model_has_is_refused(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        replace(UVIT, **changes)
    assert str(caught.value) == message


TOGETHER = "uvit and modulation text go together, in masked models of a text with rmsnorm and without biases"
CLASS_TOKEN = "a class token is of masked models without patches, and neither goes with modulation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uvit": None}, f"modulation text, order masked: {TOGETHER}"),
        ({"modulation": "class"}, f"modulation class, order masked: {TOGETHER}"),
        ({"text": None}, f"modulation text, order masked: {TOGETHER}"),
        (
            {"uvit": replace(UVIT, cross_heads=3)},
            "uvit: cross_heads 3 must divide the width 8, and a grid (4, 4) that is halved must have even sides",
        ),
        (
            {"uvit": replace(UVIT, halved=True), "grid": (3, 4)},
            "uvit: cross_heads 2 must divide the width 8, and a grid (3, 4) that is halved must have even sides",
        ),
        (
            {"uvit": None, "modulation": "none"},
            "positions none: only a U-ViT, whose convolutions know their neighbours, does without",
        ),
        (
            {"uvit": None, "modulation": "class", "positions": "learned", "class_token": True},
            f"class_token True, post_norm False, order masked, patch 1, modulation class: {CLASS_TOKEN}",
        ),
        (
            {"uvit": None, "modulation": "none", "order": "causal", "positions": "rotary-2d", "embedding_norm": True},
            "embedding_norm with positions rotary-2d: only learned positions are normalised",
        ),
    ],
)
def test_a_transformer_that_no_family_has_is_refused(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        replace(CONFIG, **changes)
    assert str(caught.value) == message
