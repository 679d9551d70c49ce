"""The layers of the image-token transformer: attention, feed-forward network, norms, rotary positions, modulation.

Letters: B batch, S positions of this call, P cached positions, D width, H query heads, K key/value heads, d head width,
F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.architecture import GATED, STRETCHED, LayerConfig, Norm, TransformerConfig
from compress.models.transformer.conditioned import CrossAttention, SteeredNorm
from compress.models.transformer.hadamard import sylvester
from compress.models.transformer.uvit import UvitConfig
from export.runtime.shape import TextShape

QUICK_GELU = 1.702  # gelu(x) ~ x sigmoid(1.702 x)
CPU = torch.device("cpu")  # tables are computed even while weights are only planned on the meta device


class KeyValue(NamedTuple):
    """Keys and values of one layer, each (B, K, P, d)."""

    key: Tensor
    value: Tensor


class BlockContext(NamedTuple):
    """What every block reads besides the residual stream.

    `mask` (S, P + S) or (B, 1, S, P + S), true where a query sees a key; None with `causal` is the triangle, without it
    everything. `rotary` are the cosines and sines of the positions; `condition` (B, 1 or S, D), or (B, 1 or S, 6 D)
    where modulation is shared; `states` (B, P, X) those of a text that blocks attend to, X wide.
    """

    mask: Tensor | None
    causal: bool
    rotary: tuple[Tensor, Tensor] | None = None
    condition: Tensor | None = None
    states: Tensor | None = None

    def behind(self, start: int) -> BlockContext:
        """The same for the positions from `start` on, as the head reads them."""
        if self.condition is None or self.condition.shape[1] == 1:
            return self
        return self._replace(condition=self.condition[:, start:])


def rotary_table(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2-D rotary positions, each (reach, d / 2): half of the pairs by row, half by column.

    Rows of the prefix do not rotate; with rotary_prefix ``zero`` their cosines are 0 too, which makes their queries and
    keys vanish, as LlamaGen's are. Axial RoPE as LlamaGen (arXiv 2406.06525) lays it out, with interleaved pairs.
    """
    columns = config.grid[1]
    pairs = config.head_width // 4
    frequency = config.rotary_base ** (-torch.arange(pairs, dtype=torch.float64, device=CPU) / pairs)
    cells = torch.arange(config.reach - config.prefix, dtype=torch.float64, device=CPU)
    by_row = torch.outer(torch.div(cells, columns, rounding_mode="floor"), frequency)
    by_column = torch.outer(cells % columns, frequency)
    angle = torch.cat([by_row, by_column], dim=1)
    angle = torch.cat([torch.zeros(config.prefix, 2 * pairs, dtype=torch.float64, device=CPU), angle])
    cosine, sine = angle.cos().float(), angle.sin().float()
    if config.rotary_prefix == "zero":
        cosine[: config.prefix] = 0
    return cosine, sine


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the interleaved pairs of x (B, H, S, d) by the angles of each position (S, d / 2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, S, d / 2)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


class BiasedRMSNorm(nn.RMSNorm):
    """RMSNorm whose result is shifted by learned numbers."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__(width, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias


def make_norm(kind: Norm, width: int, epsilon: float, affine: bool = True) -> nn.Module:
    """A normalisation over the last axis, or nothing."""
    if kind == "none":
        return nn.Identity()
    if kind == "rmsnorm-bias":
        return BiasedRMSNorm(width, epsilon)
    if kind == "rmsnorm":
        return nn.RMSNorm(width, eps=epsilon, elementwise_affine=affine)
    return nn.LayerNorm(width, eps=epsilon, elementwise_affine=affine)


class HeadNorm(nn.Module):
    """What queries and keys (B, H, S, d) go through before they meet, where anything does.

    ``rms`` normalises over all heads together, without weights; ``layernorm`` each head with weights they share; ``l2``
    makes each head's vectors of length 1. Behind ``l2`` and ``rms-stretch``, which is ``rms`` where heads were removed,
    queries are stretched by a learned number for each head.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kind, self.epsilon = config.qk_norm, config.norm_epsilon
        if self.kind == "layernorm":
            self.norm = nn.LayerNorm(config.head_width, eps=config.norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layernorm":
            return self.norm(x)
        if self.kind == "l2":
            return functional.normalize(x, dim=-1)
        if self.kind in ("rms", "rms-stretch"):
            return x * torch.rsqrt(x.square().mean(dim=(1, 3), keepdim=True) + self.epsilon)
        return x


class Attention(nn.Module):
    """Multi-head or grouped-query attention with an optional KV cache."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, layer.heads * config.head_width, bias=config.bias)
        self.key = nn.Linear(config.width, layer.kv_heads * config.head_width, bias=config.bias)
        self.value = nn.Linear(config.width, layer.kv_heads * config.head_width, bias=config.bias)
        self.output = nn.Linear(layer.heads * config.head_width, config.width, bias=config.bias)
        self.query_norm, self.key_norm = HeadNorm(config), HeadNorm(config)
        self.stretch = nn.Parameter(torch.ones(layer.heads)) if config.qk_norm in STRETCHED else None
        self.scale = 1.0 if config.qk_norm == "l2" else None
        self.grouped = layer.heads != layer.kv_heads
        self.dropout = 0.0

    def forward(
        self, x: Tensor, around: BlockContext, past: KeyValue | None, rows: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """x (B, S, D); only the positions `rows` (n,) ask, where they are given: then what comes back is (B, n, D)."""
        asking = x if rows is None else x.index_select(1, rows)
        query, key, value = (
            linear(each).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, H or K, S, d)
            for linear, each in ((self.query, asking), (self.key, x), (self.value, x))
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if self.stretch is not None:
            query = query * self.stretch[:, None, None]
        if around.rotary is not None:
            query, key = rotate(query, *around.rotary), rotate(key, *around.rotary)
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)  # (B, K, P + S, d)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=around.mask,
            is_causal=around.mask is None and around.causal,
            enable_gqa=self.grouped,
            scale=self.scale,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), KeyValue(key, value)


class BlockRotation(nn.Module):
    """Units (..., F) in blocks of b, each times the orthogonal Hadamard matrix (b, b), which is its own inverse."""

    matrix: Tensor

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block
        self.register_buffer("matrix", (sylvester(block) / block**0.5).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (-1, self.block)) @ self.matrix).flatten(-2)


class FeedForward(nn.Module):
    """Two-layer network, gated where the activation is; what ``down`` reads is rotated where the config says so."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.activation in GATED:
            self.gate = nn.Linear(config.width, layer.ffn, bias=config.bias)
        self.up = nn.Linear(config.width, layer.ffn, bias=config.bias)
        self.rotation = BlockRotation(config.down_rotation) if config.down_rotation else None
        self.down = nn.Linear(layer.ffn, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        units = self.units(x)
        return self.down(units if self.rotation is None else self.rotation(units))

    def units(self, x: Tensor) -> Tensor:
        """What the activation makes (B, S, F) of x (B, S, D)."""
        if self.activation == "swiglu":
            return functional.silu(self.gate(x)) * self.up(x)
        if self.activation == "geglu":
            return functional.gelu(self.gate(x)) * self.up(x)
        up: Tensor = self.up(x)
        if self.activation == "quick-gelu":
            return up * torch.sigmoid(QUICK_GELU * up)
        return functional.gelu(up, approximate="tanh" if self.activation == "gelu-tanh" else "none")


class Modulation(nn.Module):
    """Adaptive layer norm (arXiv 2212.09748): shifts, scales and gates from the condition, `parts` vectors (D) of them.

    A block takes six, in the order shift, scale, gate of attention and the same of the feed-forward network; the final
    norm two, shift and scale. Where modulation is shared a block only adds its own table to what all blocks get.
    """

    def __init__(self, width: int, parts: int, shared: bool = False) -> None:
        super().__init__()
        self.parts = parts
        if shared:
            self.table = nn.Parameter(torch.zeros(parts * width))
        else:
            self.linear = nn.Linear(width, parts * width)
        self.shared = shared

    def forward(self, condition: Tensor) -> Sequence[Tensor]:
        """The vectors, each (B, 1 or S, D)."""
        made = condition + self.table if self.shared else self.linear(functional.silu(condition))
        return made.chunk(self.parts, dim=-1)


class Block(nn.Module):
    """Residual layer, normalised before each branch or after it was added, modulated where the config says so."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config.norm, config.width, config.norm_epsilon, config.norm_affine)
        self.attention = Attention(config, layer)
        self.ffn_norm = make_norm(config.norm, config.width, config.norm_epsilon, config.norm_affine)
        self.ffn = FeedForward(config, layer)
        self.modulation = Modulation(config.width, 6, config.shared_modulation) if config.modulation != "none" else None
        self.post_norm = config.post_norm
        self.dropout = nn.Dropout(0.0)

    def forward(
        self, x: Tensor, around: BlockContext, past: KeyValue | None, rows: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """x (B, S, D); what comes back is of the positions `rows` (n,) alone, where they are given.

        Then the others are only seen, and a condition is one for all positions.
        """
        stays = x if rows is None else x.index_select(1, rows)
        if self.post_norm:
            mixed, present = self.attention(x, around, past, rows)
            x = self.attention_norm(stays + self.dropout(mixed))
            return self.ffn_norm(x + self.dropout(self.ffn(x))), present
        if self.modulation is None:
            mixed, present = self.attention(self.attention_norm(x), around, past, rows)
            x = stays + self.dropout(mixed)
            return x + self.dropout(self.ffn(self.ffn_norm(x))), present
        assert around.condition is not None
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(around.condition)
        mixed, present = self.attention(self.attention_norm(x) * (1 + scale) + shift, around, past, rows)
        x = stays + gate * self.dropout(mixed)
        return x + ffn_gate * self.dropout(self.ffn(self.ffn_norm(x) * (1 + ffn_scale) + ffn_shift)), present


class TextBlock(nn.Module):
    """Pre-norm residual layer with attention to a text too; the text's vector scales and shifts all three norms."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig, uvit: UvitConfig) -> None:
        super().__init__()
        width, inner, epsilon = config.width, config.inner, config.norm_epsilon
        self.attention_norm = SteeredNorm(nn.RMSNorm(width, eps=epsilon), width, inner)
        self.attention = Attention(config, layer)
        self.text_norm = SteeredNorm(nn.RMSNorm(width, eps=epsilon), width, inner)
        self.text = CrossAttention(width, inner, uvit.cross_heads, inner)
        # The original's third norm is another kind than its first two.
        self.ffn_norm = SteeredNorm(nn.LayerNorm(width, eps=epsilon, bias=False), width, inner)
        self.ffn = FeedForward(config, layer)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, around: BlockContext, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """x (B, S, D)."""
        condition, states = around.condition, around.states
        assert condition is not None
        assert states is not None
        mixed, present = self.attention(self.attention_norm(x, condition), around, past)
        x = x + self.dropout(mixed)
        x = x + self.dropout(self.text(self.text_norm(x, condition), states))
        return x + self.dropout(self.ffn(self.ffn_norm(x, condition))), present


class TextPrefix(nn.Module):
    """Features of a text as the positions before the picture: a two-layer network, and learned features of no text."""

    def __init__(self, config: TextShape, inner: int, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(config.length, config.width))
        self.up = nn.Linear(config.width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, features: Tensor, null: Tensor) -> Tensor:
        """Embeddings (B, S, D) of features (B, S, C), S the text's length or 0; where `null` (B,) those of no text."""
        given = torch.where(null[:, None, None], self.null[: features.shape[1]], features)
        return self.down(functional.gelu(self.up(given), approximate="tanh"))
