"""The image-token transformer: one model whose config covers what the families differ in.

Letters: B batch, T tokens of a picture, S positions of this call, P cached positions, D width, H query heads,
K key/value heads, d head width, F feed-forward width, V image vocabulary, O outputs of the head, Z latent width.

Three orders of drawing. ``causal``: token by token, each sees what is before it. ``masked``: all positions at once,
each sees all; unknown ones hold the mask token. ``next-scale``: grid by grid, each grid sees the coarser ones and
itself.

Inputs (B, 1 + ...) are ids in every order: column 0 is the class, the rest are tokens (all but the last of ``causal``;
all of ``masked``, with mask tokens among them; all scales, of which the last is not read, of ``next-scale``). Ids:
tokens 0 to V - 1, then the mask token where there is one, the classes, the null class of guidance, and a start token
where there is one. Widths are per layer, so a pruned model is only another config.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.codebook import Codebook
from compress.models.conditioned import CrossAttention, SteeredNorm
from compress.models.scales import MultiScaleQuantizer, ScalesConfig
from compress.models.uvit import Stem, Tail, TextCondition, UvitConfig
from export.shape import Order, Shape, TextShape

GATED = ("swiglu", "geglu")
QUICK_GELU = 1.702  # gelu(x) ~ x sigmoid(1.702 x)

Norm = Literal["rmsnorm", "layernorm", "rmsnorm-bias", "none"]
CPU = torch.device("cpu")  # tables are computed even while weights are only planned on the meta device


@dataclass(frozen=True)
class LayerConfig:
    """Widths of one layer: query heads, key/value heads (equal, or a divisor: GQA) and feed-forward units."""

    heads: int
    kv_heads: int
    ffn: int


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture, in the numbers that a checkpoint's shapes must agree with.

    `classes` 0: unconditional (the null class starts every picture). `text` makes features of a text the prefix; then
    `classes` is 1: class 0 is the text, class 1 none. `lead` start tokens stand before the class. `modulation` shifts,
    scales and gates every branch (AdaLN) by the class, or by class and position; with `shared_modulation` one layer
    makes it for all blocks. `registers` tokens are appended and dropped again; `patch` x `patch` tokens
    become one position and are told apart again before the head (both of masked models). `context` is how many
    positions have an embedding, 0: as many as a picture needs. `outputs` 0: one for each token.

    `uvit` is the stem and the head of a masked model of texts; then modulation is ``text``: every block attends to the
    text too, and its pooled embedding scales and shifts the norms. `class_token` puts the class before the tokens of a
    masked model. `post_norm` normalises after each branch was added (BERT), `embedding_norm` before the first block.
    """

    vocabulary: int
    classes: int
    grid: tuple[int, int]
    width: int
    head_width: int
    layers: tuple[LayerConfig, ...]
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    norm_epsilon: float = 1e-5
    activation: Literal["swiglu", "geglu", "gelu", "gelu-tanh", "quick-gelu"] = "swiglu"
    positions: Literal["rotary-2d", "learned", "none"] = "rotary-2d"
    rotary_base: float = 10_000.0
    bias: bool = False
    tied_head: bool = False
    order: Order = "causal"
    norm_affine: bool = True
    final_norm: Norm | None = None
    final_affine: bool = True
    head_bias: bool = False
    qk_norm: Literal["none", "rms", "layernorm", "l2"] = "none"
    modulation: Literal["none", "class", "class-position", "text"] = "none"
    shared_modulation: bool = False
    rotary_prefix: Literal["identity", "zero"] = "identity"
    lead: int = 0
    registers: int = 0
    patch: int = 1
    context: int = 0
    outputs: int = 0
    text: TextShape | None = None
    scales: tuple[int, ...] = ()
    latent_width: int = 0
    uvit: UvitConfig | None = None
    class_token: bool = False
    post_norm: bool = False
    embedding_norm: bool = False

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
        if self.patch < 1 or any(side % self.patch for side in self.grid):
            raise ValueError(f"patch {self.patch}: must divide the grid {self.grid}")
        if self.positions == "rotary-2d" and self.head_width % 4:
            raise ValueError(f"head_width {self.head_width}: rotary-2d needs a multiple of 4")
        if self.lead > 1 or (self.modulation == "class-position" and self.order == "masked"):
            raise ValueError(
                f"lead {self.lead}, modulation {self.modulation}: at most one start token, and masked models are "
                "modulated by class alone"
            )
        if (self.uvit is None) != (self.modulation != "text") or (
            self.uvit and (self.order != "masked" or self.text is None or self.bias or self.norm != "rmsnorm")
        ):
            raise ValueError(
                f"modulation {self.modulation}, order {self.order}: uvit and modulation text go together, in masked "
                "models of a text with rmsnorm and without biases"
            )
        if self.uvit and (self.width % self.uvit.cross_heads or (self.uvit.halved and any(n % 2 for n in self.grid))):
            raise ValueError(
                f"uvit: cross_heads {self.uvit.cross_heads} must divide the width {self.width}, and a grid "
                f"{self.grid} that is halved must have even sides"
            )
        if self.positions == "rotary-2d" and self.order != "causal":
            raise ValueError(f"order {self.order}: only causal models have rotary-2d positions here; use learned")
        if (self.class_token and (self.order != "masked" or self.patch > 1 or self.modulation != "none")) or (
            self.post_norm and self.modulation != "none"
        ):
            raise ValueError(
                f"class_token {self.class_token}, post_norm {self.post_norm}, order {self.order}, patch {self.patch}, "
                f"modulation {self.modulation}: a class token is of masked models without patches, and neither goes "
                "with modulation"
            )
        if self.embedding_norm and self.positions != "learned":
            raise ValueError(f"embedding_norm with positions {self.positions}: only learned positions are normalised")
        if self.positions == "none" and self.uvit is None:
            raise ValueError("positions none: only a U-ViT, whose convolutions know their neighbours, does without")
        if self.order == "next-scale" and (
            not self.scales or self.scales[0] != 1 or self.latent_width < 1 or (self.scales[-1],) * 2 != self.grid
        ):
            raise ValueError(
                f"scales {self.scales}, latent_width {self.latent_width}, grid {self.grid}: next-scale needs sides "
                "that begin with 1 and end with the grid's, and the width of the latents"
            )

    @property
    def shape(self) -> Shape:
        """What drawing needs to know."""
        return Shape(
            order=self.order,
            vocabulary=self.vocabulary,
            classes=self.classes,
            grid=self.grid,
            lead=self.lead,
            outputs=self.outputs,
            modulated=self.modulation != "none",
            text=self.text,
            scales=self.scales,
            latent_width=self.latent_width,
        )

    @property
    def length(self) -> int:
        """Tokens of one picture, over all scales."""
        return self.shape.length

    @property
    def prefix(self) -> int:
        """Positions up to the one that predicts the first token, of a causal model."""
        return self.shape.prefix

    @property
    def reach(self) -> int:
        """Positions that a sequence may have."""
        return max(self.context, self.shape.reach + self.class_token)

    @property
    def mask_token(self) -> int:
        """The id of a masked position."""
        return self.shape.mask_token

    @property
    def first_class(self) -> int:
        """The id of class 0."""
        return self.shape.first_class

    @property
    def null_class(self) -> int:
        """The class that stands for no class (the unconditional branch of guidance)."""
        return self.shape.null_class

    @property
    def predicted(self) -> int:
        """Logits of a position."""
        return self.shape.predicted

    def with_layers(self, layers: Sequence[LayerConfig]) -> TransformerConfig:
        """The same architecture with other widths or fewer layers."""
        return replace(self, layers=tuple(layers))


class KeyValue(NamedTuple):
    """Keys and values of one layer, each (B, K, P, d)."""

    key: Tensor
    value: Tensor


class Surroundings(NamedTuple):
    """What every block reads besides the residual stream.

    `mask` (S, P + S) or (B, 1, S, P + S), true where a query sees a key; None with `causal` is the triangle, without it
    everything. `rotary` are the cosines and sines of the positions; `condition` (B, 1 or S, D), or (B, 1 or S, 6 D)
    where modulation is shared; `states` (B, P, D) those of a text that blocks attend to.
    """

    mask: Tensor | None
    causal: bool
    rotary: tuple[Tensor, Tensor] | None = None
    condition: Tensor | None = None
    states: Tensor | None = None

    def behind(self, start: int) -> Surroundings:
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
    makes each head's vectors of length 1 (queries are then stretched by a learned number for each head).
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
        if self.kind == "rms":
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
        self.scale = None
        if config.qk_norm == "l2":
            self.stretch, self.scale = nn.Parameter(torch.ones(layer.heads)), 1.0
        self.grouped = layer.heads != layer.kv_heads
        self.dropout = 0.0

    def forward(self, x: Tensor, around: Surroundings, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """x (B, S, D)."""
        query, key, value = (
            linear(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, H or K, S, d)
            for linear in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if self.scale is not None:
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
        if self.activation == "geglu":
            return self.down(functional.gelu(self.gate(x)) * self.up(x))
        up = self.up(x)
        if self.activation == "quick-gelu":
            return self.down(up * torch.sigmoid(QUICK_GELU * up))
        return self.down(functional.gelu(up, approximate="tanh" if self.activation == "gelu-tanh" else "none"))


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

    def forward(self, x: Tensor, around: Surroundings, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """x (B, S, D)."""
        if self.post_norm:
            mixed, present = self.attention(x, around, past)
            x = self.attention_norm(x + self.dropout(mixed))
            return self.ffn_norm(x + self.dropout(self.ffn(x))), present
        if self.modulation is None:
            mixed, present = self.attention(self.attention_norm(x), around, past)
            x = x + self.dropout(mixed)
            return x + self.dropout(self.ffn(self.ffn_norm(x))), present
        assert around.condition is not None
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.modulation(around.condition)
        mixed, present = self.attention(self.attention_norm(x) * (1 + scale) + shift, around, past)
        x = x + gate * self.dropout(mixed)
        return x + ffn_gate * self.dropout(self.ffn(self.ffn_norm(x) * (1 + ffn_scale) + ffn_shift)), present


class TextBlock(nn.Module):
    """Pre-norm residual layer with attention to a text too; the text's vector scales and shifts all three norms."""

    def __init__(self, config: TransformerConfig, layer: LayerConfig, uvit: UvitConfig) -> None:
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = SteeredNorm(nn.RMSNorm(width, eps=epsilon), width, width)
        self.attention = Attention(config, layer)
        self.text_norm = SteeredNorm(nn.RMSNorm(width, eps=epsilon), width, width)
        self.text = CrossAttention(width, width, uvit.cross_heads)
        # The original's third norm is another kind than its first two.
        self.ffn_norm = SteeredNorm(nn.LayerNorm(width, eps=epsilon, bias=False), width, width)
        self.ffn = FeedForward(config, layer)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, around: Surroundings, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
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

    def __init__(self, config: TextShape, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(config.length, config.width))
        self.up = nn.Linear(config.width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor, null: Tensor) -> Tensor:
        """Embeddings (B, S, D) of features (B, S, C), S the text's length or 0; where `null` (B,) those of no text."""
        given = torch.where(null[:, None, None], self.null[: features.shape[1]], features)
        return self.down(functional.gelu(self.up(given), approximate="tanh"))


class TokenTransformer(nn.Module):
    """The transformer itself; eager PyTorch is the reference that everything else is compared with."""

    position: nn.Embedding
    cosine: Tensor
    sine: Tensor
    sees: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = 0 if config.order == "next-scale" else config.first_class  # rows before those of the classes
        classes = 0 if config.text else config.classes + 1
        embedding = config.uvit.embedding if config.uvit else config.width
        self.embedding = nn.Embedding(self.tokens + classes + min(config.lead, 1), embedding)
        if config.positions == "learned":
            self.position = nn.Embedding(config.reach, config.width)
        elif config.positions == "rotary-2d":
            cosine, sine = rotary_table(config)
            self.register_buffer("cosine", cosine, persistent=False)
            self.register_buffer("sine", sine, persistent=False)
        if config.embedding_norm:
            self.embedding_norm = make_norm(config.norm, config.width, config.norm_epsilon)
        if config.registers:
            self.registers = nn.Parameter(torch.zeros(config.registers, config.width))
        if config.patch > 1:
            self.merge = nn.Conv2d(config.width, config.width, config.patch, stride=config.patch, bias=False)
            self.divide = nn.Linear(config.width, config.width * config.patch**2, bias=False)
        if config.uvit:
            assert config.text is not None
            around = (config.uvit, config.grid, config.width, config.norm_epsilon)
            self.text: TextPrefix | TextCondition
            self.text = TextCondition(config.uvit, config.text, config.width, config.norm_epsilon)
            self.stem, self.tail = Stem(*around), Tail(*around)
        elif config.text:
            self.text = TextPrefix(config.text, config.width)
        if config.order == "next-scale":
            self.latent = nn.Linear(config.latent_width, config.width)
            codebook = Codebook(config.vocabulary, config.latent_width)
            # The tokenizer's, so that a picture's tokens become what the model reads; nothing trains them here.
            self.scales = MultiScaleQuantizer(codebook, ScalesConfig(config.scales)).requires_grad_(False)
            self.register_buffer("sees", scales_mask(config.scales), persistent=False)
        if config.modulation == "class-position":
            self.moment = nn.Embedding(config.reach, config.width)
        if config.shared_modulation:
            self.shared = nn.Linear(config.width, 6 * config.width)
        self.blocks = nn.ModuleList(
            TextBlock(config, layer, config.uvit) if config.uvit else Block(config, layer) for layer in config.layers
        )
        self.norm = make_norm(config.final_norm or config.norm, config.width, config.norm_epsilon, config.final_affine)
        self.final_modulation = Modulation(config.width, 2) if config.modulation not in ("none", "text") else None
        if config.tied_head:
            if config.head_bias:
                self.head_bias = nn.Parameter(torch.zeros(config.predicted))
        else:
            self.head = nn.Linear(embedding, config.predicted, bias=config.head_bias)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal of deviation 0.02, residual branches scaled down by depth as in GPT-2.

        Modulation begins at 0 (AdaLN-zero), so that every block begins as the identity.
        """
        for name, parameter in self.named_parameters():
            if "modulation" in name:
                nn.init.zeros_(parameter)
            elif parameter.dim() < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
            else:
                residual = name.endswith(("attention.output.weight", "ffn.down.weight"))
                deviation = 0.02 / math.sqrt(2 * len(self.blocks)) if residual else 0.02
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def set_dropout(self, probability: float) -> None:
        """Drop attention weights and residual branches with this probability while training."""
        for block in self.blocks:
            assert isinstance(block, (Block, TextBlock))
            block.dropout.p = block.attention.dropout = probability

    # What the blocks read

    def class_vector(self, labels: Tensor) -> Tensor:
        """Embeddings (B, D) of classes (B,)."""
        return self.embedding(labels + self.tokens)

    def conditioned(self, labels: Tensor | None, positions: Tensor) -> Tensor | None:
        """What modulates the blocks at these positions (S,)."""
        if self.config.modulation == "none":
            return None
        assert labels is not None
        condition = self.class_vector(labels)[:, None]
        if self.config.modulation == "class-position":
            condition = condition + self.moment(positions)
        return condition

    def located(self, x: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embeddings (B, S, D) at their positions (S,), and the rotary rows of these."""
        if self.config.positions == "learned":
            x = x + self.position(positions)
            return self.embedding_norm(x) if self.config.embedding_norm else x, None
        return x, (self.cosine.index_select(0, positions), self.sine.index_select(0, positions))

    def prepare(self, inputs: Tensor, features: Tensor | None = None) -> tuple[Tensor, Surroundings]:
        """The residual stream (B, S, D) that a whole picture's inputs (B, 1 + ...) begin with, and its surroundings."""
        config = self.config
        labels = inputs[:, 0] - config.first_class
        if config.order == "masked":
            return self.prepare_masked(inputs[:, 1:], labels, features)
        if config.order == "next-scale":
            latents = self.scales.features(inputs[:, 1:])
            first = latents.new_zeros(len(inputs), 1, config.latent_width)
            return self.prepare_scales(torch.cat([first, latents], dim=1), labels, 0, self.sees)
        if config.lead:
            inputs = functional.pad(inputs, (config.lead, 0), value=config.shape.start_token)
        valid = None if features is None else (features != 0).any(dim=-1)
        return self.prepare_causal(inputs[:, 1:] if config.text else inputs, None, labels, features, valid)

    def prepare_masked(
        self, tokens: Tensor, labels: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, Surroundings]:
        """Of tokens (B, T), some of them mask tokens, and classes (B,); where the model has a text, its features."""
        if self.config.uvit:
            assert features is not None
            states, vector = self.text(features, labels == self.config.null_class)
            x = self.stem(self.embedding(tokens), states, vector)
            return x, Surroundings(None, causal=False, condition=vector, states=states)
        if self.config.class_token:
            tokens = torch.cat([labels[:, None] + self.config.first_class, tokens], dim=1)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x, _ = self.located(self.embedding(tokens), positions)
        if self.config.patch > 1:
            maps = x.transpose(1, 2).unflatten(2, self.config.grid)  # (B, D, h, w)
            x = self.merge(maps).flatten(2).transpose(1, 2)
        if self.config.registers:
            x = torch.cat([x, self.registers.expand(x.shape[0], -1, -1)], dim=1)
        return x, Surroundings(None, causal=False, condition=self.shareable(self.conditioned(labels, positions)))

    def prepare_scales(
        self, latents: Tensor, labels: Tensor, before: int, mask: Tensor | None
    ) -> tuple[Tensor, Surroundings]:
        """Of latents (B, S, Z) at positions that begin at `before`; position 0 is the class (B,) instead."""
        positions = torch.arange(latents.shape[1], device=latents.device) + before
        first = (positions == 0)[:, None]
        x, _ = self.located(torch.where(first, self.class_vector(labels)[:, None], self.latent(latents)), positions)
        return x, Surroundings(mask, causal=False, condition=self.shareable(self.conditioned(labels, positions)))

    def prepare_causal(
        self,
        tokens: Tensor,
        cached: int | None,
        labels: Tensor | None,
        features: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, Surroundings]:
        """Of ids (B, S) behind `cached` positions (None: nothing is cached, and nothing is going to be).

        Features of a text (B, P or 0, C) stand before them; `valid` (B, P) is false where the text is padding, which no
        other position sees.
        """
        x = self.embedding(tokens)
        if features is not None:
            assert labels is not None
            x = torch.cat([self.text(features, labels == self.config.null_class), x], dim=1)
        count, before = x.shape[1], 0 if cached is None else cached
        queries = torch.arange(count, device=x.device) + before
        x, rotary = self.located(x, queries)
        mask = None
        if cached is not None or valid is not None:
            keys = torch.arange(before + count, device=x.device)
            mask = keys.unsqueeze(0) <= queries.unsqueeze(1)  # (S, P + S)
        if valid is not None:
            assert mask is not None
            padded = functional.pad(valid, (0, before + count - valid.shape[1]), value=True)  # (B, P + S)
            itself = keys.unsqueeze(0) == queries.unsqueeze(1)
            mask = ((mask & padded[:, None]) | itself).unsqueeze(1)  # (B, 1, S, P + S)
        condition = self.shareable(self.conditioned(labels, queries))
        return x, Surroundings(mask, causal=True, rotary=rotary, condition=condition)

    def shareable(self, condition: Tensor | None) -> Tensor | None:
        """The condition, or what one layer makes of it for all blocks; the final norm goes on with the condition."""
        if condition is None or not self.config.shared_modulation:
            return condition
        return torch.cat([condition, self.shared(functional.silu(condition))], dim=-1)

    # Running

    def layer_outputs(self, x: Tensor, around: Surroundings) -> Iterator[Tensor]:
        """Residual stream (B, S, D) before the first block and after every one."""
        yield x
        inside = self.inside(around)
        for block in self.blocks:
            x, _ = block(x, inside, None)
            yield x

    def inside(self, around: Surroundings) -> Surroundings:
        """What blocks read of the surroundings: the shared part of the condition, where it is shared."""
        if around.condition is None or not self.config.shared_modulation:
            return around
        return around._replace(condition=around.condition[..., self.config.width :])

    def logits(self, x: Tensor, around: Surroundings) -> Tensor:
        """Logits (B, S, O) of the last residual stream (B, S, D)."""
        x = self.norm(x)
        if self.final_modulation is not None:
            assert around.condition is not None
            shift, scale = self.final_modulation(around.condition[..., : self.config.width])
            x = x * (1 + scale) + shift
        if self.config.tied_head:
            bias = self.head_bias if self.config.head_bias else None
            return functional.linear(x, self.embedding.weight[: self.config.predicted], bias)
        return self.head(x)

    def predictions(self, x: Tensor, around: Surroundings) -> Tensor:
        """Logits (B, T, O) of the last residual stream (B, S, D): only of the positions that predict a token."""
        config = self.config
        if config.uvit:
            return self.head(self.tail(self.norm(x), around.states, around.condition))
        if config.order == "causal":
            return self.logits(x[:, config.prefix - 1 :], around.behind(config.prefix - 1))
        if config.patch > 1:
            rows, columns = (side // config.patch for side in config.grid)
            parts = self.divide(x[:, : rows * columns]).transpose(1, 2).unflatten(2, (rows, columns))
            x = functional.pixel_shuffle(parts, config.patch).flatten(2).transpose(1, 2)  # (B, h w, D)
        return self.logits(x[:, config.class_token :][:, : config.length], around)

    def forward(self, inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (B, T, O) of inputs (B, 1 + ...): row t predicts the t-th token of the picture.

        Models with a text condition take its features (B, P, C) too; rows of zeros in them are padding.
        """
        x, around = self.prepare(inputs, features)
        *_, last = self.layer_outputs(x, around)
        return self.predictions(last, around)

    def step(
        self,
        tokens: Tensor,
        past: Sequence[KeyValue],
        labels: Tensor | None = None,
        features: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Logits (B, S, O) of what comes next behind a cache, and the longer cache.

        `tokens` are ids (B, S), or latents (B, S, Z) of a next-scale model. `labels` (B,) are read where the model is
        modulated or has a text; `features` (B, P, C) in the call that begins, (B, 0, C) afterwards, `valid` in each.
        """
        before = past[0].key.shape[2]
        if self.config.order == "next-scale":
            assert labels is not None
            x, around = self.prepare_scales(tokens, labels, before, None)
        else:
            x, around = self.prepare_causal(tokens, before, labels, features, valid)
        inside, present = self.inside(around), []
        for block, layer_past in zip(self.blocks, past, strict=True):
            x, layer_present = block(x, inside, layer_past)
            present.append(layer_present)
        return self.logits(x, around), present

    def empty_cache(self, batch: int) -> list[KeyValue]:
        """A cache that holds nothing yet."""
        shapes = [(batch, layer.kv_heads, 0, self.config.head_width) for layer in self.config.layers]
        return [KeyValue(torch.zeros(shape), torch.zeros(shape)) for shape in shapes]

    def linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """Every matrix product of the blocks by its state-dict name, in order of execution."""
        for name, module in self.blocks.named_modules(prefix="blocks"):
            if isinstance(module, nn.Linear):
                yield name, module


def scales_mask(scales: Sequence[int]) -> Tensor:
    """Who sees whom (T, T): every position its own scale and the coarser ones."""
    counts = torch.tensor([side * side for side in scales], device=CPU)
    scale = torch.repeat_interleave(torch.arange(len(scales), device=CPU), counts)
    return scale[None, :] <= scale[:, None]
