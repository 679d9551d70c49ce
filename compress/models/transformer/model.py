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

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.tokenizer.codebook import Codebook
from compress.models.tokenizer.scales import MultiScaleQuantizer, ScalesConfig
from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.blocks import (
    CPU,
    Block,
    BlockContext,
    KeyValue,
    Modulation,
    TextBlock,
    TextPrefix,
    make_norm,
    rotary_table,
)
from compress.models.transformer.embedding import Embedding, QuantizedEmbedding
from compress.models.transformer.hadamard import mean_keeping
from compress.models.transformer.uvit import Stem, Tail, TextCondition


class TokenTransformer(nn.Module):
    """The transformer itself; eager PyTorch is the reference that everything else is compared with."""

    position: nn.Embedding
    cosine: Tensor
    sine: Tensor
    sees: Tensor
    basis: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = 0 if config.drawing.scaled else config.first_class  # rows before those of the classes
        classes = 0 if config.text else config.classes + 1
        embedding = config.uvit.embedding if config.uvit else config.width
        self.embedding: Embedding | QuantizedEmbedding = Embedding(
            self.tokens + classes + min(config.lead, 1), embedding
        )
        if config.positions == "learned":
            self.position = nn.Embedding(config.reach, config.width)
        elif config.positions == "rotary-2d":
            cosine, sine = rotary_table(config)
            self.register_buffer("cosine", cosine, persistent=False)
            self.register_buffer("sine", sine, persistent=False)
        if config.embedding_norm:
            self.embedding_norm = make_norm(config.norm, config.width, config.norm_epsilon)
        if config.stream_rotation:
            basis = mean_keeping(config.width, config.stream_rotation)
            self.register_buffer("basis", basis.float(), persistent=False)
        if config.registers:
            self.registers = nn.Parameter(torch.zeros(config.registers, config.width))
        if config.patch > 1:
            self.merge = nn.Conv2d(config.width, config.width, config.patch, stride=config.patch, bias=False)
            self.divide = nn.Linear(config.width, config.width * config.patch**2, bias=False)
        if config.uvit:
            assert config.text is not None
            around = (config.uvit, config.grid, config.width, config.inner, config.norm_epsilon)
            self.text: TextPrefix | TextCondition
            self.text = TextCondition(config.uvit, config.text, config.inner, config.norm_epsilon)
            self.stem, self.tail = Stem(*around), Tail(*around)
        elif config.text:
            self.text = TextPrefix(config.text, config.inner, config.width)
        if config.drawing.scaled:
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

    def prepare(self, inputs: Tensor, features: Tensor | None = None) -> tuple[Tensor, BlockContext]:
        """The residual stream (B, S, D) that a whole picture's inputs (B, 1 + ...) begin with, and its surroundings."""
        config = self.config
        labels = inputs[:, 0] - config.first_class
        if config.drawing.masks:
            return self.prepare_masked(inputs[:, 1:], labels, features)
        if config.drawing.scaled:
            latents = self.scales.features(inputs[:, 1:])
            first = latents.new_zeros(len(inputs), 1, config.latent_width)
            return self.prepare_scales(torch.cat([first, latents], dim=1), labels, 0, self.sees)
        if config.lead:
            inputs = functional.pad(inputs, (config.lead, 0), value=config.shape.start_token)
        valid = None if features is None else (features != 0).any(dim=-1)
        return self.prepare_causal(inputs[:, 1:] if config.text else inputs, None, labels, features, valid)

    def prepare_masked(
        self, tokens: Tensor, labels: Tensor, features: Tensor | None = None
    ) -> tuple[Tensor, BlockContext]:
        """Of tokens (B, T), some of them mask tokens, and classes (B,); where the model has a text, its features."""
        if self.config.uvit:
            assert features is not None
            states, vector = self.text(features, labels == self.config.null_class)
            x = self.stem(self.embedding(tokens), states, vector)
            return x, BlockContext(None, causal=False, condition=vector, states=states)
        if self.config.class_token:
            tokens = torch.cat([labels[:, None] + self.config.first_class, tokens], dim=1)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x, _ = self.located(self.embedding(tokens), positions)
        if self.config.patch > 1:
            maps = x.transpose(1, 2).unflatten(2, self.config.grid)  # (B, D, h, w)
            x = self.merge(maps).flatten(2).transpose(1, 2)
        if self.config.registers:
            x = torch.cat([x, self.registers.expand(x.shape[0], -1, -1)], dim=1)
        return x, BlockContext(None, causal=False, condition=self.shareable(self.conditioned(labels, positions)))

    def prepare_scales(
        self, latents: Tensor, labels: Tensor, before: int, mask: Tensor | None
    ) -> tuple[Tensor, BlockContext]:
        """Of latents (B, S, Z) at positions that begin at `before`; position 0 is the class (B,) instead."""
        positions = torch.arange(latents.shape[1], device=latents.device) + before
        first = (positions == 0)[:, None]
        x, _ = self.located(torch.where(first, self.class_vector(labels)[:, None], self.latent(latents)), positions)
        return x, BlockContext(mask, causal=False, condition=self.shareable(self.conditioned(labels, positions)))

    def prepare_causal(
        self,
        tokens: Tensor,
        cached: int | None,
        labels: Tensor | None,
        features: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, BlockContext]:
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
        return x, BlockContext(mask, causal=True, rotary=rotary, condition=condition)

    def shareable(self, condition: Tensor | None) -> Tensor | None:
        """The condition, or what one layer makes of it for all blocks; the final norm goes on with the condition."""
        if condition is None or not self.config.shared_modulation:
            return condition
        return torch.cat([condition, self.shared(functional.silu(condition))], dim=-1)

    # Running

    def layer_outputs(self, x: Tensor, around: BlockContext) -> Iterator[Tensor]:
        """Residual stream (B, S, D) before the first block and after every one."""
        yield x
        inside = self.inside(around)
        for block in self.blocks:
            x, _ = block(x, inside, None)
            yield x

    def unrotated(self, x: Tensor) -> Tensor:
        """A stream (B, S, D) in the channels that the model had before its stream was rotated."""
        return x @ self.basis.to(x.dtype) if self.config.stream_rotation else x

    def rotated(self, x: Tensor) -> Tensor:
        """A stream (B, S, D) of the model before its stream was rotated, in the channels that it has now."""
        return x @ self.basis.mT.to(x.dtype) if self.config.stream_rotation else x

    def revealed(self, tokens: Tensor, labels: Tensor, positions: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (B, n, O) of some positions (n,) of a masked model's tokens (B, T), classes (B,) and text features.

        Of the last block and behind it only these positions are computed, where nothing mixes positions there.
        """
        x, around = self.prepare_masked(tokens, labels, features)
        if self.config.uvit or self.config.patch > 1:
            *_, x = self.layer_outputs(x, around)
            return self.predictions(x, around, positions)
        inside, last = self.inside(around), len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x, _ = block(x, inside, None, positions + self.config.class_token if index == last else None)
        return self.logits(x, around)

    def inside(self, around: BlockContext) -> BlockContext:
        """What blocks read of the surroundings: the shared part of the condition, where it is shared."""
        if around.condition is None or not self.config.shared_modulation:
            return around
        return around._replace(condition=around.condition[..., self.config.width :])

    def logits(self, x: Tensor, around: BlockContext) -> Tensor:
        """Logits (B, S, O) of the last residual stream (B, S, D)."""
        x = self.norm(x)
        if self.final_modulation is not None:
            assert around.condition is not None
            shift, scale = self.final_modulation(around.condition[..., : self.config.width])
            x = x * (1 + scale) + shift
        if self.config.tied_head:
            bias = self.head_bias if self.config.head_bias else None
            return self.embedding.logits(x, self.config.predicted, bias)
        return self.head(x)

    def predictions(self, x: Tensor, around: BlockContext, positions: Tensor | None = None) -> Tensor:
        """Logits (B, T, O) of the last residual stream (B, S, D): only of the positions that predict a token.

        A masked model's `positions` (n,) are those of which logits (B, n, O) are wanted.
        """
        config = self.config
        if config.uvit:
            rows = self.tail(self.norm(x), around.states, around.condition)
            return self.head(rows if positions is None else rows.index_select(1, positions))
        if config.drawing.sequential:
            return self.logits(x[:, config.prefix - 1 :], around.behind(config.prefix - 1))
        if config.patch > 1:
            rows, columns = (side // config.patch for side in config.grid)
            parts = self.divide(x[:, : rows * columns]).transpose(1, 2).unflatten(2, (rows, columns))
            x = functional.pixel_shuffle(parts, config.patch).flatten(2).transpose(1, 2)  # (B, h w, D)
        x = x[:, config.class_token :][:, : config.length]
        return self.logits(x if positions is None else x.index_select(1, positions), around)

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
        if self.config.drawing.scaled:
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
