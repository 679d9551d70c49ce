"""The transformer against independent formulations: PyTorch's own modules, and values worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg, special
from torch import nn
from torch.nn import functional

from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.blocks import BlockContext, rotary_table, rotate
from compress.models.transformer.model import TokenTransformer, scales_mask

ROTARY = TransformerConfig(
    vocabulary=5, classes=3, grid=(3, 4), width=16, head_width=8, layers=(LayerConfig(2, 2, 24), LayerConfig(4, 2, 8))
)
LEARNED = TransformerConfig(
    vocabulary=5, classes=3, grid=(3, 4), width=16, head_width=8, layers=(LayerConfig(2, 2, 32),) * 2,
    norm="layernorm", activation="gelu", positions="learned", bias=True, tied_head=True,
)  # fmt: skip


CAUSAL = BlockContext(None, causal=True)


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
        torch.testing.assert_close(own(x, CAUSAL, None)[0], block(x, src_mask=mask), atol=1e-5, rtol=1e-5)


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
        torch.testing.assert_close(attention(x, CAUSAL, None)[0], attention.output(mixed), atol=1e-5, rtol=1e-5)


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


def test_what_down_reads_is_rotated_in_blocks_by_scipys_matrix() -> None:
    ffn = build(replace(ROTARY, down_rotation=8)).blocks[0].ffn
    x = torch.randn(2, 16)
    blocks = linalg.block_diag(*[linalg.hadamard(8) / math.sqrt(8)] * 3)
    expected = ffn.down(functional.silu(ffn.gate(x)) * ffn.up(x) @ torch.from_numpy(blocks).float())
    torch.testing.assert_close(ffn(x), expected)


def test_a_tied_head_reads_the_embedding_of_the_image_tokens() -> None:
    model = build(LEARNED)
    x = torch.randn(1, 2, 16)
    expected = functional.linear(model.norm(x), model.embedding.weight[:5])
    torch.testing.assert_close(model.logits(x, CAUSAL), expected)
    assert "head.weight" not in model.state_dict()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layers": (LayerConfig(3, 2, 8),)}, r"layers\[0\]: heads 3, kv_heads 2, ffn 8: each must be from 1 to"),
        ({"head_width": 6}, "head_width 6: rotary-2d needs a multiple of 4"),
        ({"vocabulary": 0}, "vocabulary 0: must be at least 1"),
        ({"classes": -1}, "classes -1: must be at least 0"),
        ({"grid": (0, 4)}, r"grid \(0, 4\): needs sides of at least 1"),
        ({"layers": ()}, r"0 layers: must be 1 to 10000"),
        ({"down_rotation": 16}, r"layers\[0\]: ffn 8, down_rotation 16: blocks that are rotated have a power of two"),
        ({"down_rotation": 6, "layers": (LayerConfig(2, 2, 12),)}, r"layers\[0\]: ffn 12, down_rotation 6: blocks"),
        ({"down_rotation": 2048}, "down_rotation 2048: must be at most 1024"),
        ({"stream_rotation": -1}, "stream_rotation -1: must be at least 0"),
        ({"stream_rotation": 1, "width": 8200}, "width 8200: a stream that is rotated has a width of at most 8192"),
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


def numpy_logits(model: TokenTransformer, tokens: np.ndarray) -> np.ndarray:
    """The whole transformer again, in float64 and one position at a time, from the formulas alone."""
    config = model.config
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        if config.norm == "layernorm":
            x = x - x.mean()
        x = x / np.sqrt((x**2).mean() + config.norm_epsilon) * weights[f"{name}.weight"]
        return x + weights.get(f"{name}.bias", 0.0)

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", 0.0)

    def turn(head: np.ndarray, position: int) -> np.ndarray:
        if config.positions == "learned" or position == 0:
            return head
        cell, quarter = divmod(position - 1, config.grid[1]), config.head_width // 4
        turned = np.empty_like(head)
        for pair in range(2 * quarter):
            angle = cell[pair // quarter] / config.rotary_base ** (pair % quarter / quarter)
            even, odd = head[2 * pair : 2 * pair + 2]
            turned[2 * pair] = even * math.cos(angle) - odd * math.sin(angle)
            turned[2 * pair + 1] = even * math.sin(angle) + odd * math.cos(angle)
        return turned

    def attend(queries: np.ndarray, keys: list, values: list, layer: LayerConfig) -> np.ndarray:
        mixed = []
        for head, query in enumerate(queries):
            shared = head // (layer.heads // layer.kv_heads)
            scores = np.array([query @ key[shared] for key in keys]) / math.sqrt(config.head_width)
            shares = np.exp(scores - scores.max())
            mixed.append(sum(share * value[shared] for share, value in zip(shares / shares.sum(), values, strict=True)))
        return np.concatenate(mixed)

    def feed(x: np.ndarray, name: str) -> np.ndarray:
        up = linear(x, f"{name}.up")
        if config.activation == "swiglu":
            gate = linear(x, f"{name}.gate")
            return linear(gate / (1 + np.exp(-gate)) * up, f"{name}.down")
        if config.activation == "gelu":
            return linear(up * (1 + special.erf(up / math.sqrt(2))) / 2, f"{name}.down")
        return linear(up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2, f"{name}.down")

    logits = []
    cache: list[tuple[list, list]] = [([], []) for _ in config.layers]
    for position, token in enumerate(tokens):
        x = weights["embedding.weight"][token]
        if config.positions == "learned":
            x = x + weights["position.weight"][position]
        for index, (layer, (keys, values)) in enumerate(zip(config.layers, cache, strict=True)):
            name = f"blocks.{index}"
            y = norm(x, f"{name}.attention_norm")
            query, key, value = (
                linear(y, f"{name}.attention.{kind}").reshape(-1, config.head_width)
                for kind in ("query", "key", "value")
            )
            keys.append(np.stack([turn(head, position) for head in key]))
            values.append(value)
            mixed = attend(np.stack([turn(head, position) for head in query]), keys, values, layer)
            x = x + linear(mixed, f"{name}.attention.output")
            x = x + feed(norm(x, f"{name}.ffn_norm"), f"{name}.ffn")
        head = weights["embedding.weight"][: config.vocabulary] if config.tied_head else weights["head.weight"]
        logits.append(head @ norm(x, "norm"))
    return np.array(logits)


@pytest.mark.parametrize(
    "config",
    [ROTARY, replace(ROTARY, bias=True, rotary_base=100.0), LEARNED, replace(LEARNED, activation="gelu-tanh")],
    ids=["rotary", "rotary-bias", "learned", "gelu-tanh"],
)
def test_the_logits_equal_a_numpy_transformer_written_from_the_formulas(config: TransformerConfig) -> None:
    model = build(config)
    tokens = torch.randint(0, 9, (2, 12), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        logits = model(tokens).numpy()
    for row, sequence in zip(logits, tokens.numpy(), strict=True):
        np.testing.assert_allclose(row, numpy_logits(model, sequence), atol=5e-5, rtol=1e-4)


def test_rmsnorm_divides_by_the_root_of_the_mean_square() -> None:
    norm = build(ROTARY).norm
    with torch.no_grad():
        norm.weight.copy_(torch.arange(16.0))
        x = torch.full((16,), 2.0)
        x[8:] = -2.0
        expected = torch.arange(16.0) * torch.sign(x) * 2 / math.sqrt(4 + 1e-5)
        torch.testing.assert_close(norm(x), expected)


def test_fresh_weights_are_small_and_smaller_where_the_residual_stream_is_fed() -> None:
    config = replace(ROTARY, width=64, layers=(LayerConfig(8, 8, 256),) * 8, bias=True, norm="layernorm")
    model = TokenTransformer(config)
    model.initialise(torch.Generator().manual_seed(0))
    block = model.blocks[0]
    assert float(block.ffn.up.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(block.ffn.down.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)  # two branches of 8 layers
    assert block.ffn.up.bias.abs().max() == 0
    assert (block.ffn_norm.weight == 1).all()
    assert (block.ffn_norm.bias == 0).all()


def test_dropout_acts_while_training_alone() -> None:
    model = build(ROTARY)
    tokens = torch.randint(0, 5, (1, 12), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        before = model(tokens)
        model.set_dropout(0.5)
        assert torch.equal(model(tokens), before)
        assert not torch.equal(model.train()(tokens), before)


def test_the_linears_of_the_blocks_are_named_as_in_the_state_dict() -> None:
    model = build(ROTARY)
    names = [name for name, _ in model.linears()]
    assert names[:7] == [
        *(f"blocks.0.attention.{kind}" for kind in ("query", "key", "value", "output")),
        *(f"blocks.0.ffn.{kind}" for kind in ("gate", "up", "down")),
    ]
    assert all(f"{name}.weight" in model.state_dict() for name in names)
    assert len(names) == 14


# What kinds of models differ in, by hand


def test_queries_and_keys_are_normalised_as_the_config_says() -> None:
    x = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(8))  # (B, H, S, d)
    norms = {
        kind: build(replace(ROTARY, qk_norm=kind)).blocks[0].attention.query_norm
        for kind in ("none", "rms", "l2", "layernorm")
    }
    with torch.no_grad():
        assert norms["none"](x) is x
        torch.testing.assert_close(norms["l2"](x).norm(dim=-1), torch.ones(2, 4, 5))
        together = x.transpose(1, 2).flatten(2)  # all heads of a position
        wanted = functional.rms_norm(together, (32,), eps=1e-5).unflatten(2, (4, 8)).transpose(1, 2)
        torch.testing.assert_close(norms["rms"](x), wanted)
        own = norms["layernorm"].norm
        torch.testing.assert_close(norms["layernorm"](x), functional.layer_norm(x, (8,), own.weight, own.bias, 1e-5))


def test_l2_scores_are_cosines_times_the_heads_stretch() -> None:
    attention = build(replace(ROTARY, qk_norm="l2", layers=(LayerConfig(2, 2, 24),))).blocks[0].attention
    x = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        attention.stretch.copy_(torch.tensor([2.0, 5.0]))
        query, key, value = (
            linear(x).unflatten(-1, (2, 8)).transpose(1, 2)
            for linear in (attention.query, attention.key, attention.value)
        )
        cosines = functional.cosine_similarity(query[:, :, :, None], key[:, :, None], dim=-1)  # (B, H, S, S)
        scores = cosines * torch.tensor([2.0, 5.0])[:, None, None]
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        everything = BlockContext(None, causal=False)
        torch.testing.assert_close(attention(x, everything, None)[0], attention.output(mixed), atol=1e-5, rtol=1e-5)


def test_quick_gelu_is_x_times_the_sigmoid_of_1702_thousandths_of_x() -> None:
    ffn = build(replace(ROTARY, activation="quick-gelu")).blocks[0].ffn
    x = torch.randn(2, 16)
    torch.testing.assert_close(ffn(x), ffn.down(ffn.up(x) / (1 + torch.exp(-1.702 * ffn.up(x)))))


def test_a_block_is_shifted_scaled_and_gated_by_the_class() -> None:
    model = build(replace(LEARNED, modulation="class"))
    block, x = model.blocks[0], torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(10))
    with torch.no_grad():
        condition = model.class_vector(torch.tensor([0, 3]))[:, None]
        parts = block.modulation.linear(functional.silu(condition)).chunk(6, dim=-1)
        mixed, _ = block.attention(block.attention_norm(x) * (1 + parts[1]) + parts[0], CAUSAL, None)
        middle = x + parts[2] * mixed
        wanted = middle + parts[5] * block.ffn(block.ffn_norm(middle) * (1 + parts[4]) + parts[3])
        found, _ = block(x, CAUSAL._replace(condition=condition), None)
    torch.testing.assert_close(found, wanted)


def test_fresh_modulation_makes_every_block_the_identity() -> None:
    model = TokenTransformer(replace(LEARNED, modulation="class"))
    model.initialise(torch.Generator().manual_seed(0))
    streams = list(model.layer_outputs(*model.prepare(torch.tensor([[6, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]]))))
    assert all(torch.equal(stream, streams[0]) for stream in streams)


@pytest.mark.parametrize(
    "change",
    [
        {"modulation": "class", "registers": 2, "qk_norm": "rms"},
        {"modulation": "class", "patch": 2},
        {"class_token": True, "post_norm": True, "embedding_norm": True},
        {},
    ],
    ids=["registers", "patches", "class token", "plain"],
)
def test_logits_of_some_positions_are_those_of_all(change: dict) -> None:
    model = build(replace(LEARNED, order="masked", grid=(4, 4), **change))
    generator = torch.Generator().manual_seed(12)
    tokens, labels = torch.randint(0, 6, (3, 16), generator=generator), torch.tensor([0, 3, 1])
    positions = torch.tensor([15, 0, 7])
    with torch.no_grad():
        wanted = model(torch.cat([labels[:, None] + model.config.first_class, tokens], dim=1))
        found = model.revealed(tokens, labels, positions)
    torch.testing.assert_close(found, wanted[:, positions], rtol=0, atol=1e-5)


def test_a_zero_prefix_lets_queries_and_keys_vanish() -> None:
    cosine, sine = rotary_table(replace(ROTARY, rotary_prefix="zero"))
    assert not cosine[0].any()
    assert not sine[0].any()
    for table, other in zip((cosine, sine), rotary_table(ROTARY), strict=True):
        assert torch.equal(table[1:], other[1:])


def test_a_scale_sees_itself_and_the_coarser_ones() -> None:
    mask = scales_mask((1, 2))
    assert mask.int().tolist() == [[1, 0, 0, 0, 0], *[[1, 1, 1, 1, 1]] * 4]


def test_more_context_than_a_picture_needs_is_kept_but_not_read() -> None:
    model = build(replace(LEARNED, context=20))
    assert model.position.weight.shape == (20, 16)
    tokens = torch.randint(0, 5, (1, 12), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        before = model(tokens)
        model.position.weight[12:] = 7
        assert torch.equal(model(tokens), before)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"order": "masked"}, "order masked: only causal models have rotary-2d positions here; use learned"),
        ({"lead": 2}, "lead 2, modulation none: at most one start token"),
        ({"order": "next-scale", "positions": "learned"}, "next-scale needs sides that begin with 1"),
    ],
)
def test_orders_that_cannot_be_are_refused(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(ROTARY, **change)
