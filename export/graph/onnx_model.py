"""The ONNX form of a model: the decode graph and the image decoder, exported from PyTorch and lowered for a target.

Letters: B batch, T tokens of a call, P cached tokens, K key/value heads, d head width, V vocabulary, H x W pixels.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import Tensor, nn

from export.graph.builder import Builder
from export.graph.graph_file import GraphFileError, load_graph
from export.graph.saturation import unsafe_products
from export.graph.weights import PROTOBUF, save_graph
from export.rewrites import static_cache
from export.rewrites.lowering import LoweringError, lower
from export.runtime.engine_files import WEIGHTS
from export.runtime.manifest import (
    BEGIN,
    DECODE,
    GENERATE,
    IMAGE_DECODER,
    IMAGE_ENCODER,
    PLAN,
    SCALES,
    Cache,
    Cpu,
    EngineError,
    Manifest,
    Target,
)
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

OPSET = 23  # the first with Attention and RMSNormalization
IR_VERSION = 11
POSITIONS = "positions"  # of which a masked model's logits are wanted
SCOPES = "pkg.torch.onnx.name_scopes"
FILES = {
    "decode": DECODE,
    "image_decoder": IMAGE_DECODER,
    "image_encoder": IMAGE_ENCODER,
    "scales": SCALES,
    "generate": GENERATE,
    "begin": BEGIN,
}
# Sizes to trace with; each is distinct and becomes symbolic.
EXAMPLE_BATCH, EXAMPLE_TOKENS, EXAMPLE_PAST, EXAMPLE_TEXT = 2, 3, 5, 7


class Config(Protocol):
    """What export reads of a transformer's config."""

    head_width: int

    @property
    def shape(self) -> Shape:
        """Tokens, classes and the order of drawing."""

    @property
    def layers(self) -> Sequence[Any]:
        """Layers; each has `kv_heads`."""


@dataclass(frozen=True)
class OnnxModel:
    """An engine in memory: the graph of a decode step with its cache, that of tokens to pictures, a plan if built.

    Where the checkpoint has it, that of pictures to tokens; of a next-scale model, that of tokens to what it reads; of
    a hoisted model, that of what is computed once before the steps. `generate` is all of it in one graph.
    """

    decode: ir.Model
    image_decoder: ir.Model
    manifest: Manifest
    plan: bytes | None = None
    image_encoder: ir.Model | None = None
    scales: ir.Model | None = None
    begin: ir.Model | None = None
    generate: ir.Model | None = None

    @property
    def graphs(self) -> dict[str, ir.Model]:
        """Every graph by its file's name in the manifest."""
        optional = {
            "image_encoder": self.image_encoder,
            "scales": self.scales,
            "begin": self.begin,
            "generate": self.generate,
        }
        present = {name: graph for name, graph in optional.items() if graph is not None}
        return {"decode": self.decode, "image_decoder": self.image_decoder, **present}

    @property
    def cpu(self) -> Cpu:
        """The processors on which ONNX Runtime's int8 kernels are right, by the weights of every graph."""
        return "vnni" if any(unsafe_products(graph) for graph in self.graphs.values()) else "any"

    def with_plan(self, plan: bytes) -> OnnxModel:
        """The same model and what TensorRT built of its decode graph."""
        return replace(self, plan=plan, manifest=replace(self.manifest, files={**self.manifest.files, "plan": PLAN}))

    def save(self, folder: Path) -> None:
        """Write an engine folder into an existing folder; many weights lie in a file beside their graph."""
        files = {name: file for name, file in self.manifest.files.items() if not name.endswith(WEIGHTS)}
        for name, graph in self.graphs.items():
            _, *beside = save_graph(graph, folder / FILES[name], PROTOBUF if name == "generate" else None)
            for path in beside:
                files[name + WEIGHTS] = path.name
        if self.plan is not None:
            (folder / PLAN).write_bytes(self.plan)
        replace(self.manifest, files=files, cpu=self.cpu).save(folder)

    @classmethod
    def load(cls, folder: Path) -> OnnxModel:
        """Read an engine folder; weights beside a graph are read from there when they are used.

        Raises:
            EngineError: it is damaged.
        """
        manifest = Manifest.load(folder)
        plan = (folder / manifest.files["plan"]).read_bytes() if "plan" in manifest.files else None
        try:
            graphs = {name: load_graph(folder / file) for name, file in manifest.files.items() if name in FILES}
        except GraphFileError as error:
            raise EngineError(str(error)) from error
        return cls(manifest=manifest, plan=plan, **graphs)


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
    fixed_batch: int = 0,
) -> OnnxModel:
    """Export a transformer for a target; `fixed_batch` 0 keeps the batch dynamic.

    Raises:
        LoweringError: a quantized layer, or the model's order of drawing, has no form on this target.
    """
    config: Any = transformer.config
    shape: Shape = config.shape
    if target == "tensorrt" and (shape.text or shape.order == "next-scale"):
        kind = "a text condition" if shape.text else "next-scale"
        raise LoweringError(f"{name}: tensorrt has no static cache for {kind} here; export for onnxruntime or standard")
    decode = source_graph(transformer)
    lower(decode, target)
    cache: Cache = "none" if shape.order == "masked" else "growing"
    if target == "tensorrt" and shape.order == "masked":
        ask_for_all(decode.graph, shape.length)
    if target == "tensorrt" and cache == "growing":
        static_cache.make_static(decode, shape.reach)
        cache = "static"
    if fixed_batch:
        fix_batch(decode, fixed_batch)
    optional: dict[str, ir.Model] = {}
    if pictures.encoder_graph is not None:
        optional["image_encoder"] = pictures.encoder_graph
    if shape.order == "next-scale":
        optional["scales"] = plain_graph(
            Latents(transformer), example_tokens(shape.length), "scales", "tokens", "latents"
        )
    files = ("decode", "image_decoder", *optional)
    manifest = Manifest(
        name=name,
        family=family,
        target=target,
        cache=cache,
        shape=shape,
        head_width=config.head_width,
        kv_heads=tuple(layer.kv_heads for layer in config.layers) if cache != "none" else (),
        sampler=sampler,
        parameters=parameters,
        fixed_batch=fixed_batch,
        files={each: FILES[each] for each in files},
        weight_only=not any(node.op_type == "QuantizeLinear" for node in decode.graph)
        and any(node.op_type == "DequantizeLinear" for node in decode.graph),
    )
    return OnnxModel(
        decode,
        pictures.decoder_graph,
        manifest,
        image_encoder=optional.get("image_encoder"),
        scales=optional.get("scales"),
    )


def source_graph(transformer: nn.Module) -> ir.Model:
    """One decode step as plain ONNX with a growing cache; quantized layers are `compress::QuantizedLinear` nodes.

    Inputs are `tokens` (B, S), or latents (B, S, Z) of a next-scale model; `past.{i}.key` and `past.{i}.value` (B, K,
    P, d); `labels` (B,) where the model reads them; `features` (B, P or 0, C) and `valid` (B, P) of a text. Outputs are
    `logits` (B, S, O) and `present.{i}.key`, `present.{i}.value` (B, K, P + S, d). A masked model has `tokens` (B, T),
    `labels`, the `positions` (n,) whose logits (B, n, O) are wanted, all `features` (B, P, C) of a text at every step,
    and no cache.
    """
    config: Any = transformer.config
    shape: Shape = config.shape
    labels = torch.zeros(EXAMPLE_BATCH, dtype=torch.int64)
    if shape.order == "masked":
        positions = torch.arange(min(EXAMPLE_TOKENS, shape.length))
        given = {"tokens": example_tokens(shape.length), "labels": labels, POSITIONS: positions}
        if shape.text:
            given["features"] = torch.zeros(EXAMPLE_BATCH, shape.text.length, shape.text.width)
        sizes = tuple({0: "positions" if name == POSITIONS else "batch"} for name in given)
        model = traced(WholeStep(transformer), tuple(given.values()), sizes)
        rename(model, list(given), ["logits"], "decode")
        return model
    shapes = [(EXAMPLE_BATCH, layer.kv_heads, EXAMPLE_PAST, config.head_width) for layer in config.layers]
    past = [[torch.zeros(each), torch.zeros(each)] for each in shapes]
    tokens, token_dims = example_tokens(EXAMPLE_TOKENS), {0: "batch", 1: "tokens"}
    if shape.order == "next-scale":
        tokens = torch.zeros(EXAMPLE_BATCH, EXAMPLE_TOKENS, shape.latent_width)
    extras: dict[str, Tensor] = {}
    extra_dims: dict[str, dict[int, str]] = {}
    if shape.labelled:
        extras["labels"], extra_dims["labels"] = labels, {0: "batch"}
    if shape.text:
        # Traced with a text of another length than the model's: afterwards its length is 0.
        extras["features"] = torch.zeros(EXAMPLE_BATCH, min(EXAMPLE_TEXT, shape.text.length - 1), shape.text.width)
        extras["valid"] = torch.ones(EXAMPLE_BATCH, shape.text.length, dtype=torch.bool)
        extra_dims |= {"features": {0: "batch", 1: "text"}, "valid": {0: "batch"}}
    cache_dims = {0: "batch", 2: "past"}
    dims = (token_dims, [[cache_dims, cache_dims] for _ in past], *extra_dims.values())
    model = traced(DecodeStep(transformer), (tokens, past, *extras.values()), dims)
    names = [f"{{}}.{layer}.{part}" for layer in range(len(past)) for part in ("key", "value")]
    inputs, outputs = ([each.format(kind) for each in names] for kind in ("past", "present"))
    rename(model, ["tokens", *inputs, *extras], ["logits", *outputs], "decode")
    return model


def ask_for_all(graph: ir.Graph, length: int) -> None:
    """Logits of all positions at every step, for runtimes that want static shapes."""
    asked = next(value for value in graph.inputs if value.name == POSITIONS)
    every = Builder(graph, graph[0], "logits").initializer(POSITIONS, np.arange(length))
    ir.convenience.replace_all_uses_with(asked, every)
    graph.inputs.remove(asked)
    graph.outputs[0].shape = ir.Shape([graph.outputs[0].shape[0], length, graph.outputs[0].shape[2]])  # type: ignore[index]


def example_tokens(length: int) -> Tensor:
    """Tokens to trace with."""
    return torch.zeros(EXAMPLE_BATCH, length, dtype=torch.int64)


def traced(module: nn.Module, given: tuple[Any, ...], dims: tuple[Any, ...]) -> ir.Model:
    """A module as ONNX, tidy, with the named dimensions dynamic."""
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            given,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dims,
            # The exporter's own optimizer spends most of the export on rewrite rules that never fire here.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    tidy(program.model)
    return program.model


def plain_graph(module: nn.Module, given: Tensor, title: str, takes: str, *gives: str) -> ir.Model:
    """A module of one input as ONNX, its batch dynamic."""
    model = traced(module, (given,), ({0: "batch"},))
    rename(model, [takes], list(gives), title)
    return model


def tidy(model: ir.Model, may_fold: Callable[[ir.Node], bool | None] = lambda node: None) -> None:
    """Fold constants (the transposed weights among them), merge equal nodes, drop dead ones; deterministic.

    `may_fold` is asked of every node whose inputs are constant; False leaves it to the runtime.
    """
    optimizer.fold_constants(model, output_size_limit=2**31, should_fold=may_fold)
    for step in (
        common.InlinePass(),
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    ):
        step(model)


def rename(model: ir.Model, inputs: Sequence[str], outputs: Sequence[str], title: str) -> None:
    """Names of inputs, outputs, nodes and weights that a person can read; nothing of the exporter's machine stays."""
    graph = model.graph
    graph.name = title
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    used: dict[str, int] = {}
    for node in graph:
        scope = scope_of(node)
        base = f"/{scope.replace('.', '/')}/{node.op_type}" if scope else f"/{node.op_type}"
        used[base] = used.get(base, 0) + 1
        node.name = base + (f"_{used[base]}" if used[base] > 1 else "")
        node.metadata_props.clear()
        node.doc_string = None
        if node.op_type == "MatMul" and scope:
            weight = node.inputs[1]
            if weight is not None and weight.is_initializer() and not (weight.name or "").startswith("transformer."):
                weight.name = f"transformer.{scope}.weight"
    for value in list(graph.initializers.values()):
        if (value.name or "").startswith("transformer."):
            value.name = value.name.removeprefix("transformer.")  # type: ignore[union-attr]
        value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, graph.doc_string = "compress", None, None, None
    model.ir_version = IR_VERSION


def scope_of(node: ir.Node) -> str:
    """The module path that made a node, as the state dict names it."""
    text = node.metadata_props.get(SCOPES, "")
    scopes = [scope.strip(" '\"") for scope in text.strip("[]").split(",")]
    modules = [scope for scope in scopes if scope.startswith("transformer.")]
    return modules[-1].removeprefix("transformer.") if modules else ""


def fix_batch(model: ir.Model, batch: int) -> None:
    """Make the batch a number, for runtimes that want static shapes."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        value.shape = ir.Shape([batch if str(dim) == "batch" else dim for dim in value.shape])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter from telling the user about packages and conversions that are none of their concern."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
