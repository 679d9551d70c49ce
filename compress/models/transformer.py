"""The image-token transformer: one decoder whose config covers what the families differ in.

Letters: B batch, T tokens of this call, P cached tokens, D width, H query heads, K key/value heads, d head width,
F feed-forward width, V image vocabulary.

The sequence of one picture is ``[class, t0, t1, ...]``: the class is an ordinary token of id ``V + class`` and the null
class of classifier-free guidance is ``V + classes``. Position 0 is the class, position i + 1 the i-th token in raster
order. Widths are per layer, so a pruned model is only another config.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

GATED = ("swiglu",)


@dataclass(frozen=True)
class LayerConfig:
    """Widths of one layer: query heads, key/value heads (equal, or a divisor: GQA) and feed-forward units."""

    heads: int
    kv_heads: int
    ffn: int


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture, in the numbers that a checkpoint's shapes must agree with."""

    vocabulary: int
    classes: int
    grid: tuple[int, int]
    width: int
    head_width: int
    layers: tuple[LayerConfig, ...]
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    activation: Literal["swiglu", "gelu", "gelu-tanh"] = "swiglu"
    positions: Literal["rotary-2d", "learned"] = "rotary-2d"
    rotary_base: float = 10_000.0
    bias: bool = False
    tied_head: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no model has.

        Raises:
            ValueError: says which.
        """
        for name, least in {"vocabulary": 1, "classes": 0, "width": 1, "head_width": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)}: must be at least {least}")
        if min(self.grid) < 1 or not self.layers:
            raise ValueError(f"grid {self.grid} and {len(self.layers)} layers: need at least one token and one layer")
        for index, layer in enumerate(self.layers):
            if min(layer.heads, layer.kv_heads, layer.ffn) < 1 or layer.heads % layer.kv_heads:
                raise ValueError(
                    f"layers[{index}]: heads {layer.heads}, kv_heads {layer.kv_heads}, ffn {layer.ffn}: "
                    "each must be at least 1 and kv_heads must divide heads"
                )
        if self.positions == "rotary-2d" and self.head_width % 4:
            raise ValueError(f"head_width {self.head_width}: rotary-2d needs a multiple of 4")

    @property
    def length(self) -> int:
        """Tokens of one picture; also the longest input (the class and all tokens but the last)."""
        return self.grid[0] * self.grid[1]

    @property
    def null_class(self) -> int:
        """The class that stands for no class (the unconditional branch of guidance)."""
        return self.classes

    def with_layers(self, layers: Sequence[LayerConfig]) -> TransformerConfig:
        """The same architecture with other widths or fewer layers."""
        return replace(self, layers=tuple(layers))


class KeyValue(NamedTuple):
    """Keys and values of one layer, each (B, K, P, d)."""

    key: Tensor
    value: Tensor


def rotary_table(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2-D rotary positions, each (length, d / 2): half of the pairs by row, half by column.

    Row 0 belongs to the class token and does not rotate. Axial RoPE as LlamaGen (arXiv 2406.06525) lays it out, with
    interleaved pairs.
    """
    rows, columns = config.grid
    pairs = config.head_width // 4
    frequency = config.rotary_base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    cells = torch.arange(rows * columns - 1, dtype=torch.float64)
    by_row = torch.outer(torch.div(cells, columns, rounding_mode="floor"), frequency)
    by_column = torch.outer(cells % columns, frequency)
    angle = torch.cat([by_row, by_column], dim=1)
    angle = torch.cat([torch.zeros(1, 2 * pairs, dtype=torch.float64), angle])
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate the interleaved pairs of x (B, H, T, d) by the angles of each token (T, d / 2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, T, d / 2)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def make_norm(config: TransformerConfig) -> nn.Module:
    """The normalisation over the width that the config names."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.width, eps=config.norm_epsilon)
    return nn.LayerNorm(config.width, eps=config.norm_epsilon)


class Attention(nn.Module):
    """Causal multi-head or grouped-query attention with an optional KV cache."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.query = nn.Linear(config.width, layer.heads * config.head_width, bias=config.bias)
        self.key = nn.Linear(config.width, layer.kv_heads * config.head_width, bias=config.bias)
        self.value = nn.Linear(config.width, layer.kv_heads * config.head_width, bias=config.bias)
        self.output = nn.Linear(layer.heads * config.head_width, config.width, bias=config.bias)
        self.grouped = layer.heads != layer.kv_heads
        self.dropout = 0.0

    def forward(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """x (B, T, D); mask (T, P + T), true where a query sees a key, or None for causal without past."""
        query, key, value = (
            linear(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, H or K, T, d)
            for linear in (self.query, self.key, self.value)
        )
        if rotary is not None:
            query, key = rotate(query, *rotary), rotate(key, *rotary)
        if past is not None:
            key, value = torch.cat([past.key, key], dim=2), torch.cat([past.value, value], dim=2)  # (B, K, P + T, d)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.grouped,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), KeyValue(key, value)


class FeedForward(nn.Module):
    """Two-layer network, gated where the activation is."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        if config.activation in GATED:
            self.gate = nn.Linear(config.width, layer.ffn, bias=config.bias)
        self.up = nn.Linear(config.width, layer.ffn, bias=config.bias)
        self.down = nn.Linear(layer.ffn, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.down(functional.silu(self.gate(x)) * self.up(x))
        return self.down(functional.gelu(self.up(x), approximate="tanh" if self.activation == "gelu-tanh" else "none"))


class Block(nn.Module):
    """Pre-norm residual layer."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.ffn_norm = make_norm(config)
        self.ffn = FeedForward(config, layer)
        self.dropout = nn.Dropout(0.0)

    def forward(
        self, x: Tensor, mask: Tensor | None, rotary: tuple[Tensor, Tensor] | None, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        mixed, present = self.attention(self.attention_norm(x), mask, rotary, past)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.ffn(self.ffn_norm(x))), present


class TokenTransformer(nn.Module):
    """The transformer itself; eager PyTorch is the reference that everything else is compared with."""

    position: nn.Embedding
    cosine: Tensor
    sine: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary + config.classes + 1, config.width)
        if config.positions == "learned":
            self.position = nn.Embedding(config.length, config.width)
        else:
            cosine, sine = rotary_table(config)
            self.register_buffer("cosine", cosine, persistent=False)
            self.register_buffer("sine", sine, persistent=False)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in config.layers)
        self.norm = make_norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied_head:
            del self.head

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal of deviation 0.02, residual branches scaled down by depth as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
            else:
                residual = name.endswith(("attention.output.weight", "ffn.down.weight"))
                deviation = 0.02 / (2 * len(self.blocks)) ** 0.5 if residual else 0.02
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def set_dropout(self, probability: float) -> None:
        """Drop attention weights and residual branches with this probability while training."""
        for block in self.blocks:
            assert isinstance(block, Block)
            block.dropout.p = block.attention.dropout = probability

    def embed(self, tokens: Tensor, start: int | Tensor = 0) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embeddings (B, T, D) of tokens that begin at position ``start``, and the rotary rows of their positions."""
        positions = torch.arange(tokens.shape[1], device=tokens.device) + start
        x = self.embedding(tokens)
        if self.config.positions == "learned":
            return x + self.position(positions), None
        return x, (self.cosine.index_select(0, positions), self.sine.index_select(0, positions))

    def layer_outputs(self, tokens: Tensor) -> Iterator[Tensor]:
        """Residual stream (B, T, D) after the embedding and after every block."""
        x, rotary = self.embed(tokens)
        yield x
        for block in self.blocks:
            x, _ = block(x, None, rotary, None)
            yield x

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, T, V) of the last residual stream (B, T, D)."""
        x = self.norm(x)
        if self.config.tied_head:
            return functional.linear(x, self.embedding.weight[: self.config.vocabulary])
        return self.head(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, V) of inputs (B, T): row t predicts the t-th token of the picture."""
        *_, last = self.layer_outputs(tokens)
        return self.logits(last)

    def step(self, tokens: Tensor, past: Sequence[KeyValue]) -> tuple[Tensor, list[KeyValue]]:
        """Logits (B, T, V) of further tokens (B, T) behind a cache, and the longer cache."""
        length, before = tokens.shape[1], past[0].key.shape[2]
        x, rotary = self.embed(tokens, before)
        keys = torch.arange(before + length, device=tokens.device)
        queries = torch.arange(length, device=tokens.device) + before
        mask = keys.unsqueeze(0) <= queries.unsqueeze(1)  # (T, P + T)
        present = []
        for block, layer_past in zip(self.blocks, past, strict=True):
            x, layer_present = block(x, mask, rotary, layer_past)
            present.append(layer_present)
        return self.logits(x), present

    def empty_cache(self, batch: int) -> list[KeyValue]:
        """A cache that holds nothing yet."""
        shapes = [(batch, layer.kv_heads, 0, self.config.head_width) for layer in self.config.layers]
        return [KeyValue(torch.zeros(shape), torch.zeros(shape)) for shape in shapes]

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """Every matrix product of the blocks by its state-dict name, in order of execution."""
        for name, module in self.blocks.named_modules(prefix="blocks"):
            if isinstance(module, nn.Linear):
                yield name, module
