"""A transformer and its tokenizer from PyTorch to an engine's graphs, lowered for a target.

Letters: B batch, T tokens of a call, P cached tokens, K key/value heads, d head width, V vocabulary, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self

import onnx_ir as ir
import torch
from torch import Tensor, nn

from export.graph.onnx_model import FILES, OnnxModel, fix_batch
from export.graph.rounding import rounds_inputs
from export.rewrites.hoist import hoist, reads_text_before
from export.rewrites.lowering import LoweringError
from export.runtime.manifest import Cache, Manifest
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape
from export.runtime.signature import DecodeSignature
from export.tracing.repeated import repeated
from export.tracing.trace import (
    EXAMPLE_BATCH,
    EXAMPLE_PAST,
    EXAMPLE_TEXT,
    EXAMPLE_TOKENS,
    example_tokens,
    exported,
    plain_graph,
    rename,
    tidy,
)

HEADS_AXIS = 1  # of a cache (B, K, P, d)


class Config(Protocol):
    """What export reads of a transformer's config."""

    head_width: int

    @property
    def shape(self) -> Shape:
        """Tokens, classes and the order of drawing."""

    @property
    def layers(self) -> Sequence[Any]:
        """Layers; each has `kv_heads`."""

    def with_layers(self, layers: Sequence[Any]) -> Self:
        """The same with other layers."""


class Target(Protocol):
    """What export asks of a target."""

    @property
    def name(self) -> str:
        """As manifests call it."""

    def refusal(self, shape: Shape) -> str:
        """Why models of this shape cannot be exported for it; empty where they can."""

    def adapt(self, decode: ir.Model, shape: Shape) -> Cache:
        """Make a traced decode graph one for this target, in place; the cache that it has then."""

    def pictures(self, graph: ir.Model) -> ir.Model:
        """The graph of an image decoder or encoder, as it is for this target."""


class DecodeStep(nn.Module):
    """`step` of a transformer with plain lists as its cache, which is what the exporter can see through."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        tokens: Tensor,
        past: list[list[Tensor]],
        labels: Tensor | None = None,
        features: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Logits (B, S, O) and the longer cache of tokens (B, S) behind a [key, value] (B, K, P, d) for each layer."""
        cache_type = type(self.transformer.empty_cache(1)[0])
        logits, present = self.transformer.step(tokens, [cache_type(*layer) for layer in past], labels, features, valid)
        return logits, [list(layer) for layer in present]


class WholeStep(nn.Module):
    """One pass of a masked transformer, its classes apart from the tokens, and features of a text where it has one."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens: Tensor, labels: Tensor, positions: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (B, n, O) of positions (n,) of tokens (B, T), classes (B,) and features (B, P, C)."""
        return self.transformer.revealed(tokens, labels, positions, features)


class Latents(nn.Module):
    """What a next-scale transformer reads (B, T - 1, Z) of tokens (B, T)."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.scales = transformer.scales

    def forward(self, tokens: Tensor) -> Tensor:
        """Latents of all scales behind the first."""
        return self.scales.features(tokens)


@dataclass(frozen=True)
class Pictures:
    """Modules of a tokenizer: tokens (B, T) to pictures (uint8, and float32), and back where the checkpoint can.

    Their graphs are exported once, however many transformers are exported beside them; nobody may change them.
    """

    decoder: nn.Module
    encoder: nn.Module | None
    length: int
    picture: tuple[int, int, int]

    @cached_property
    def decoder_graph(self) -> ir.Model:
        """Tokens (B, T) to `images` uint8 (B, H, W, C), and `pixels` float32 in 0..1 before clamping and rounding."""
        return plain_graph(self.decoder, example_tokens(self.length), "image_decoder", "tokens", "images", "pixels")

    @cached_property
    def encoder_graph(self) -> ir.Model | None:
        """`images` uint8 (B, H, W, C) to `tokens` (B, T)."""
        if self.encoder is None:
            return None
        images = torch.zeros(EXAMPLE_BATCH, *self.picture, dtype=torch.uint8)
        return plain_graph(self.encoder, images, "image_encoder", "images", "tokens")


def export_model(
    transformer: nn.Module,
    pictures: Pictures,
    target: Target,
    *,
    name: str,
    family: str,
    sampler: Sampler,
    parameters: int,
    class_names: tuple[str, ...] = (),
    licence: str = "",
    fixed_batch: int = 0,
) -> OnnxModel:
    """Export a transformer for a target; `fixed_batch` 0 keeps the batch dynamic.

    Raises:
        LoweringError: a quantized layer, or the model's order of drawing, has no form on this target.
    """
    config: Any = transformer.config
    shape: Shape = replace(config.shape, class_names=class_names)
    if reason := target.refusal(shape):
        raise LoweringError(f"{name}: {reason}")
    decode = source_graph(transformer)
    cache = target.adapt(decode, shape)
    if fixed_batch:
        fix_batch(decode, fixed_batch)
    optional: dict[str, ir.Model] = {}
    if pictures.encoder_graph is not None:
        optional["image_encoder"] = target.pictures(pictures.encoder_graph)
    if shape.drawing.scaled:
        optional["scales"] = plain_graph(
            Latents(transformer), example_tokens(shape.length), "scales", "tokens", "latents"
        )
    files = ("decode", "image_decoder", *optional)
    manifest = Manifest(
        name=name,
        family=family,
        target=target.name,
        cache=cache,
        shape=shape,
        head_width=config.head_width,
        kv_heads=tuple(layer.kv_heads for layer in config.layers) if cache != "none" else (),
        sampler=sampler,
        parameters=parameters,
        fixed_batch=fixed_batch,
        stream_rotation=config.stream_rotation,
        licence=licence,
        files={each: FILES[each] for each in files},
        rounds_inputs=rounds_inputs(decode.graph),
        weight_only=not any(node.op_type == "QuantizeLinear" for node in decode.graph)
        and any(node.op_type == "DequantizeLinear" for node in decode.graph),
    )
    made = OnnxModel(
        decode,
        target.pictures(pictures.decoder_graph),
        manifest,
        image_encoder=optional.get("image_encoder"),
        scales=optional.get("scales"),
    )
    return hoist(made).model if reads_text_before(manifest) else made


def source_graph(transformer: nn.Module) -> ir.Model:
    """One decode step as plain ONNX with a growing cache; quantized layers are `compress::QuantizedLinear` nodes.

    Inputs are `tokens` (B, S), or latents (B, S, Z) of a next-scale model; `past.{i}.key` and `past.{i}.value` (B, K,
    P, d); `labels` (B,) where the model reads them; `features` (B, P or 0, C) and `valid` (B, P) of a text. Outputs are
    `logits` (B, S, O) and `present.{i}.key`, `present.{i}.value` (B, K, P + S, d). A masked model has `tokens` (B, T),
    `labels`, the `positions` (n,) whose logits (B, n, O) are wanted, all `features` (B, P, C) of a text at every step,
    and no cache.
    """
    config: Any = transformer.config
    signature = DecodeSignature.traced(config.shape, [layer.kv_heads for layer in config.layers], config.head_width)
    past = [f"past.{name}" for name in signature.caches]
    others = [name for name in signature.inputs if name != "tokens" and name not in past]
    model = repeated(transformer, 2 if past else 0, step_graph)
    tidy(model)
    rename(model, ["tokens", *past, *others], list(signature.outputs), "decode")
    return model


def step_graph(transformer: nn.Module) -> ir.Model:
    """The same as the exporter writes it, before it is tidied."""
    config: Any = transformer.config
    shape: Shape = config.shape
    signature = DecodeSignature.traced(shape, [layer.kv_heads for layer in config.layers], config.head_width)
    sizes = {
        "batch": EXAMPLE_BATCH,
        "tokens": EXAMPLE_TOKENS,
        "past": EXAMPLE_PAST,
        "positions": min(EXAMPLE_TOKENS, shape.length),
        # A text of another length than the model's: after the first call its length is 0.
        "text": min(EXAMPLE_TEXT, shape.text.length - 1) if shape.text else 0,
    }
    given, dims = {}, {}
    for name, port in signature.inputs.items():
        given[name] = torch.zeros(port.bound(**sizes), dtype=getattr(torch, port.kind))
        dims[name] = {axis: size for axis, size in enumerate(port.sizes) if isinstance(size, str)}
    past = [f"past.{name}" for name in signature.caches]
    others = [name for name in given if name != "tokens" and name not in past]

    def arguments(values: dict[str, Any]) -> tuple[Any, ...]:
        """What the step is called with: the cache is one argument, a [key, value] for each layer."""
        layers = [[values[key], values[value]] for key, value in zip(past[0::2], past[1::2], strict=True)]
        return (values["tokens"], *([layers] if layers else []), *(values[name] for name in others))

    step = DecodeStep(transformer) if past else WholeStep(transformer)
    model = exported(step, arguments(given), arguments(dims))
    if past:
        ask_first_cache(model.graph, len(past))
    return model


def ask_first_cache(graph: ir.Graph, caches: int) -> None:
    """Ask the first layer's keys for the sizes that all caches share; the exporter asks now these and now those."""
    first, *others = graph.inputs[1 : 1 + caches]
    for cache in others:
        for use in cache.uses():
            if use.node.op_type == "Shape" and use.node.attributes.get_int("start", 0) != HEADS_AXIS:
                use.node.replace_input_with(use.idx, first)
