"""The step of a model for a GPU: a cache at one address, which a CUDA graph can capture, packed products, FP8 products.

Letters: B rows, S positions of a step, P cached positions, D width, H heads, d head width, N outputs of a product.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.blocks import Attention, Block, BlockContext, FeedForward, KeyValue, rotate
from compress.models.transformer.model import TokenTransformer

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
MULTIPLE = 16  # widths that FP8 products take
LEAST = 1e-12  # an activation's range, so that a row of zeros has a scale


class StaticAttention(nn.Module):
    """The model's attention with its cache at one address; `packed` makes query, key and value in one product.

    Keys and values of a call are written at the positions `at` (S,); `seen` positions of the cache are attended to.
    """

    key_cache: Tensor
    value_cache: Tensor
    at: Tensor

    def __init__(self, inner: Attention, cache: KeyValue | None, packed: bool) -> None:
        super().__init__()
        self.head_width, self.scale, self.grouped = inner.head_width, inner.scale, inner.grouped
        asked = (inner.query, inner.key, inner.value)
        self.widths = [each.out_features for each in asked]
        self.made = nn.ModuleList([joined(*asked)] if packed else asked)
        self.output, self.query_norm, self.key_norm = inner.output, inner.query_norm, inner.key_norm
        self.stretch = inner.stretch if inner.scale is not None else None
        self.cached, self.seen = cache is not None, 0
        if cache is not None:
            self.register_buffer("key_cache", cache.key, persistent=False)
            self.register_buffer("value_cache", cache.value, persistent=False)

    def forward(
        self, x: Tensor, around: BlockContext, past: KeyValue | None, rows: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """As the model's own; `past` is not read, `rows` are not asked for here."""
        made = [each(x) for each in self.made]
        parts = made[0].split(self.widths, dim=-1) if len(made) == 1 else made
        query, key, value = (each.unflatten(-1, (-1, self.head_width)).transpose(1, 2) for each in parts)
        query, key = self.query_norm(query), self.key_norm(key)
        if self.stretch is not None:
            query = query * self.stretch[:, None, None]
        if around.rotary is not None:
            query, key = rotate(query, *around.rotary), rotate(key, *around.rotary)
        if self.cached:
            self.key_cache.index_copy_(2, self.at, key)
            self.value_cache.index_copy_(2, self.at, value)
            key, value = self.key_cache[:, :, : self.seen], self.value_cache[:, :, : self.seen]
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=around.mask, enable_gqa=self.grouped, scale=self.scale
        )
        return self.output(mixed.transpose(1, 2).flatten(2)), KeyValue(key, value)


class PackedFeedForward(nn.Module):
    """A gated feed-forward network (``swiglu``) whose gate and up projection are one product."""

    def __init__(self, inner: FeedForward) -> None:
        super().__init__()
        self.both, self.down = joined(inner.gate, inner.up), inner.down

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.down(functional.silu(gate) * up)


class Fp8Linear(nn.Module):
    """A product of FP8 weights, with a scale for each output, and activations that are scaled row by row as they come.

    `by_rows` false: one scale for all weights and one for all activations, where the row-wise product does not run.
    """

    def __init__(self, inner: nn.Linear, by_rows: bool) -> None:
        super().__init__()
        self.by_rows, self.in_features, self.out_features = by_rows, inner.in_features, inner.out_features
        weight, scale = self.quantized(inner.weight)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("weight_scale", scale.mT.contiguous() if by_rows else scale, persistent=False)
        self.bias = inner.bias

    def quantized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """FP8 numbers of x (n, K) and their scale (n, 1), or one of all."""
        axis = {"dim": -1, "keepdim": True} if self.by_rows else {}
        largest = torch.linalg.vector_norm(x, ord=float("inf"), dtype=torch.float32, **axis)  # in one kernel
        scale = largest.clamp_min(LEAST) / LARGEST
        return (x / scale).to(FP8), scale

    def product(self, x: Tensor, scale: Tensor) -> Tensor:
        """Of FP8 activations (n, K): (n, N) in bf16."""
        made = torch._scaled_mm(
            x,
            cast(Tensor, self.weight).t(),
            scale_a=scale,
            scale_b=cast(Tensor, self.weight_scale),
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return made if self.bias is None else made + self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.product(*self.quantized(x.flatten(0, -2))).unflatten(0, x.shape[:-1])


def joined(*linears: nn.Linear) -> nn.Linear:
    """Products of one input as one product."""
    made = nn.Linear(linears[0].in_features, sum(each.out_features for each in linears), device="meta")
    made.weight = nn.Parameter(torch.cat([each.weight for each in linears]), requires_grad=False)
    biases: list[Tensor] = [each.bias for each in linears if each.bias is not None]
    made.register_parameter("bias", nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None)
    return made


def fits_fp8(linear: nn.Linear) -> bool:
    """Whether an FP8 product takes these widths."""
    return linear.in_features % MULTIPLE == 0 and linear.out_features % MULTIPLE == 0


def fp8_by_rows(device: torch.device, rows: int) -> bool:
    """Whether the row-wise FP8 product runs with so many rows; otherwise scales are of whole tensors."""
    try:
        linear = Fp8Linear(nn.Linear(64, 64, bias=False, device=device, dtype=torch.bfloat16), by_rows=True)
        linear(torch.randn(rows, 64, device=device, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True


def rewritten(
    model: TokenTransformer, rows: int, packed: bool = False, fp8: bool = False, by_rows: bool = True
) -> TokenTransformer:
    """A copy of a model that keeps a cache of so many rows at one address, with packed or FP8 products."""
    made, config = copy.deepcopy(model), model.config
    like = made.embedding.weight
    for block, layer in zip(made.blocks, config.layers, strict=True):
        assert isinstance(block, Block)
        cache = None
        if not config.drawing.masks:
            shape = (rows, layer.kv_heads, config.reach, config.head_width)
            cache = KeyValue(like.new_zeros(shape), like.new_zeros(shape))
        block.attention = StaticAttention(block.attention, cache, packed)  # type: ignore[assignment]
        if packed and config.activation == "swiglu":
            block.ffn = PackedFeedForward(block.ffn)  # type: ignore[assignment]
    if fp8:
        for parent in list(made.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear) and fits_fp8(child):
                    setattr(parent, name, Fp8Linear(child, by_rows))
    return made


def place(model: TokenTransformer, at: Tensor, seen: int) -> None:
    """Where the next call writes, and how much of the cache it sees."""
    for block in model.blocks:
        attention = block.attention
        assert isinstance(attention, StaticAttention)
        attention.at, attention.seen = at, seen


def causal_step(model: TokenTransformer, tokens: Tensor, position: Tensor) -> Tensor:
    """Logits (B, 1, O) of ids (B, 1) at a position (1,) that is known on the device alone."""
    x, rotary = model.located(model.embedding(tokens), position)
    hidden = torch.arange(model.config.reach, device=x.device) > position
    mask = x.new_zeros(1, model.config.reach).masked_fill_(hidden, float("-inf"))
    around = BlockContext(mask, causal=False, rotary=rotary)
    for block in model.blocks:
        x, _ = block(x, around, None)
    return model.logits(x, around)


def products_alone(model: TokenTransformer, rows: int, count: int) -> Callable[[], Tensor]:
    """Every product of a step of `count` positions and nothing else, on activations that are ready."""
    inputs: dict[tuple[int, int], Tensor] = {}
    ready: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, Fp8Linear)):
            continue
        key = (rows * positions_of(name, count), module.in_features)
        if key not in inputs:
            inputs[key] = torch.randn(key, device=model.embedding.weight.device, dtype=torch.bfloat16)
        x = inputs[key]
        ready.append((module, module.quantized(x) if isinstance(module, Fp8Linear) else (x,)))

    def run() -> Tensor:
        for module, given in ready:
            made = module.product(*given) if isinstance(module, Fp8Linear) else module(*given)
        return made

    return run


def positions_of(name: str, count: int) -> int:
    """Positions that a product computes: modulation reads the class alone."""
    return 1 if "modulation" in name else count


def empty_past(config: TransformerConfig, before: int, like: Tensor) -> list[KeyValue]:
    """A past that only says how many positions are cached, for attention that keeps its own."""
    nothing = like.new_zeros(0, 0, before, 0)
    return [KeyValue(nothing, nothing)] * len(config.layers)
