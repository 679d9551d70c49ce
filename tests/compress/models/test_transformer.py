"""The transformer against independent formulations: PyTorch's own modules, and values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.models.transformer import LayerConfig, TokenTransformer, TransformerConfig, rotary_table, rotate

ROTARY = TransformerConfig(
    vocabulary=5, classes=3, grid=(3, 4), width=16, head_width=8, layers=(LayerConfig(2, 2, 24), LayerConfig(4, 2, 8))
)
LEARNED = TransformerConfig(
    vocabulary=5, classes=3, grid=(3, 4), width=16, head_width=8, layers=(LayerConfig(2, 2, 32),) * 2,
    norm="layernorm", activation="gelu", positions="learned", bias=True, tied_head=True,
)  # fmt: skip


def build(config: TransformerConfig) -> TokenTransformer:
    model = TokenTransformer(config)
    generator = torch.Generator().manual_seed(1)
    model.initialise(generator)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("config", [ROTARY, LEARNED], ids=["rotary", "learned"])
def test_the_cached_loop_gives_the_logits_of_the_full_pass(config: TransformerConfig) -> None:
    model = build(config)
    tokens = torch.randint(0, 9, (3, 12), generator=torch.Generator().manual_seed(2))
    past, steps = model.empty_cache(3), []
    with torch.no_grad():
        for cut in (slice(0, 1), slice(1, 5), slice(5, 12)):
            logits, past = model.step(tokens[:, cut], past)
            steps.append(logits)
        torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens), atol=2e-5, rtol=1e-5)


def test_a_layernorm_gelu_block_equals_pytorchs_own_encoder_layer() -> None:
    model, block = build(LEARNED), nn.TransformerEncoderLayer(
        16, 2, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()  # fmt: skip
    own = model.blocks[0]
    with torch.no_grad():
        block.self_attn.in_proj_weight.copy_(
            torch.cat([own.attention.query.weight, own.attention.key.weight, own.attention.value.weight])
        )
        block.self_attn.in_proj_bias.copy_(
            torch.cat([own.attention.query.bias, own.attention.key.bias, own.attention.value.bias])
        )
        for theirs, ours in (
            (block.self_attn.out_proj, own.attention.output),
            (block.linear1, own.ffn.up),
            (block.linear2, own.ffn.down),
            (block.norm1, own.attention_norm),
            (block.norm2, own.ffn_norm),
        ):
            theirs.load_state_dict(ours.state_dict())
        # head width 8 times 2 heads is the width 16, so both split heads alike
        x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
        mask = nn.Transformer.generate_square_subsequent_mask(6)
        torch.testing.assert_close(own(x, None, None, None)[0], block(x, src_mask=mask), atol=1e-5, rtol=1e-5)


def test_grouped_query_attention_equals_repeated_keys_and_values() -> None:
    attention = build(ROTARY).blocks[1].attention
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        query = attention.query(x).view(2, 5, 4, 8).transpose(1, 2)
        key, value = (
            linear(x).view(2, 5, 2, 8).transpose(1, 2).repeat_interleave(2, dim=1)
            for linear in (attention.key, attention.value)
        )
        scores = query @ key.transpose(2, 3) / math.sqrt(8)
        scores = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(2, 5, 32)
        torch.testing.assert_close(attention(x, None, None, None)[0], attention.output(mixed), atol=1e-5, rtol=1e-5)


def test_rotary_positions_are_complex_turns_by_row_then_by_column() -> None:
    cosine, sine = rotary_table(ROTARY)  # grid 3 x 4, two frequencies: 1 and 1 / 100
    position = 1 + 2 * 4 + 3  # row 2, column 3; one past the last input position is not in the table
    assert cosine.shape == (12, 4)
    row, column = divmod(position - 2, 4)
    expected = torch.tensor([row, row / 100, column, column / 100])
    torch.testing.assert_close(cosine[position - 1], expected.cos())
    torch.testing.assert_close(sine[position - 1], expected.sin())
    assert cosine[0].tolist() == [1.0] * 4, "the class token does not turn"
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(5))
    turned = torch.view_as_complex(x.view(4, 2)) * torch.polar(torch.ones(4), expected)
    torch.testing.assert_close(
        rotate(x, cosine[position - 1 : position], sine[position - 1 : position]).view(4, 2), torch.view_as_real(turned)
    )


def test_swiglu_is_the_gated_product() -> None:
    ffn = build(ROTARY).blocks[0].ffn
    x = torch.randn(2, 16)
    gate = ffn.gate(x)
    torch.testing.assert_close(ffn(x), ffn.down(gate * torch.sigmoid(gate) * ffn.up(x)))


def test_a_tied_head_reads_the_embedding_of_the_image_tokens() -> None:
    model = build(LEARNED)
    x = torch.randn(1, 2, 16)
    expected = functional.linear(model.norm(x), model.embedding.weight[:5])
    torch.testing.assert_close(model.logits(x), expected)
    assert "head.weight" not in model.state_dict()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layers": (LayerConfig(3, 2, 8),)}, r"layers\[0\]: heads 3, kv_heads 2, ffn 8: each must be at least 1"),
        ({"head_width": 6}, "head_width 6: rotary-2d needs a multiple of 4"),
    ],
)
def test_impossible_widths_are_refused(change: dict, text: str) -> None:
    base = {
        "vocabulary": 5,
        "classes": 3,
        "grid": (3, 4),
        "width": 16,
        "head_width": 8,
        "layers": (LayerConfig(2, 2, 8),),
    }
    with pytest.raises(ValueError, match=text):
        TransformerConfig(**{**base, **change})
