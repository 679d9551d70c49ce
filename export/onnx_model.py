"""The ONNX form of a model: the decode graph and the image decoder, exported from PyTorch and lowered for a target.

Letters: B batch, T tokens of a call, P cached tokens, K key/value heads, d head width, V vocabulary, H x W pixels.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript import optimizer
from torch import Tensor, nn

from export import static_cache
from export.lowering import lower
from export.manifest import DECODE, IMAGE_DECODER, PLAN, Cache, Manifest, Target
from export.sampling import Sampler

OPSET = 23  # the first with Attention and RMSNormalization
IR_VERSION = 11
SCOPES = "pkg.torch.onnx.name_scopes"
EXAMPLE_BATCH, EXAMPLE_TOKENS, EXAMPLE_PAST = 2, 3, 5  # sizes to trace with; each is distinct and becomes symbolic


class Config(Protocol):
    """What export reads of a transformer's config."""

    vocabulary: int
    classes: int
    grid: tuple[int, int]
    head_width: int

    @property
    def layers(self) -> Sequence[Any]:
        """Layers; each has `kv_heads`."""


@dataclass(frozen=True)
class OnnxModel:
    """An engine in memory: the graph of a decode step with its cache, that of tokens to pictures, a plan if built."""

    decode: ir.Model
    image_decoder: ir.Model
    manifest: Manifest
    plan: bytes | None = None

    def with_plan(self, plan: bytes) -> OnnxModel:
        """The same model and what TensorRT built of its decode graph."""
        return replace(self, plan=plan, manifest=replace(self.manifest, files={**self.manifest.files, "plan": PLAN}))

    def save(self, folder: Path) -> None:
        """Write an engine folder into an existing folder."""
        ir.save(self.decode, folder / DECODE)
        ir.save(self.image_decoder, folder / IMAGE_DECODER)
        if self.plan is not None:
            (folder / PLAN).write_bytes(self.plan)
        self.manifest.save(folder)

    @classmethod
    def load(cls, folder: Path) -> OnnxModel:
        """Read an engine folder.

        Raises:
            EngineError: it is damaged.
        """
        manifest = Manifest.load(folder)
        plan = (folder / PLAN).read_bytes() if "plan" in manifest.files else None
        return cls(ir.load(folder / DECODE), ir.load(folder / IMAGE_DECODER), manifest, plan)


class DecodeStep(nn.Module):
    """`step` of a transformer with plain lists as its cache, which is what the exporter can see through."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, tokens: Tensor, past: list[list[Tensor]]) -> tuple[Tensor, list[list[Tensor]]]:
        """Logits (B, T, V) and the longer cache of tokens (B, T) behind a [key, value] (B, K, P, d) for each layer."""
        cache_type = type(self.transformer.empty_cache(1)[0])
        logits, present = self.transformer.step(tokens, [cache_type(*layer) for layer in past])
        return logits, [list(layer) for layer in present]


def export_model(
    transformer: nn.Module,
    palette: NDArray[np.uint8],
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
        LoweringError: a quantized layer has no form on this target.
    """
    config: Any = transformer.config
    decode = source_graph(transformer)
    lower(decode, target)
    cache: Cache = "growing"
    if target == "tensorrt":
        static_cache.make_static(decode, config.grid[0] * config.grid[1])
        cache = "static"
    if fixed_batch:
        fix_batch(decode, fixed_batch)
    manifest = Manifest(
        name=name,
        family=family,
        target=target,
        cache=cache,
        vocabulary=config.vocabulary,
        classes=config.classes,
        grid=tuple(config.grid),
        head_width=config.head_width,
        kv_heads=tuple(layer.kv_heads for layer in config.layers),
        sampler=sampler,
        parameters=parameters,
        fixed_batch=fixed_batch,
        weight_only=not any(node.op_type == "QuantizeLinear" for node in decode.graph)
        and any(node.op_type == "DequantizeLinear" for node in decode.graph),
    )
    return OnnxModel(decode, palette_decoder(palette, config.grid), manifest)


def source_graph(transformer: nn.Module) -> ir.Model:
    """One decode step as plain ONNX with a growing cache; quantized layers are `compress::QuantizedLinear` nodes.

    Inputs are `tokens` (B, T) and `past.{i}.key`, `past.{i}.value` (B, K, P, d); outputs `logits` (B, T, V) and
    `present.{i}.key`, `present.{i}.value` (B, K, P + T, d).
    """
    config: Any = transformer.config
    shapes = [(EXAMPLE_BATCH, layer.kv_heads, EXAMPLE_PAST, config.head_width) for layer in config.layers]
    past = [[torch.zeros(shape), torch.zeros(shape)] for shape in shapes]
    tokens = torch.zeros(EXAMPLE_BATCH, EXAMPLE_TOKENS, dtype=torch.int64)
    cache_dims = {0: "batch", 2: "past"}
    with quiet():
        program = torch.onnx.export(
            DecodeStep(transformer.eval()),
            (tokens, past),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch", 1: "tokens"}, [[cache_dims, cache_dims] for _ in past]),
            # The exporter's own optimizer spends most of the export on rewrite rules that never fire here.
            optimize=False,
            verbose=False,
        )
    assert program is not None
    model = program.model
    tidy(model)
    rename(model, len(past))
    return model


def tidy(model: ir.Model) -> None:
    """Fold constants (the transposed weights among them), merge equal nodes, drop dead ones; deterministic."""
    optimizer.fold_constants(model, output_size_limit=2**31)
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


def rename(model: ir.Model, layers: int) -> None:
    """Names of inputs, outputs, nodes and weights that a person can read; nothing of the exporter's machine stays."""
    graph = model.graph
    graph.name = "decode"
    names = [f"{{}}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    for value, name in zip(graph.inputs, ["tokens", *(each.format("past") for each in names)], strict=True):
        value.name = name
    for value, name in zip(graph.outputs, ["logits", *(each.format("present") for each in names)], strict=True):
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


def palette_decoder(palette: NDArray[np.uint8], grid: tuple[int, int]) -> ir.Model:
    """The image decoder of pixel tokens: tokens (B, T) to pictures (B, H, W, 1), a look-up of each grey level."""
    tokens = ir.Value(
        name="tokens", shape=ir.Shape(["batch", grid[0] * grid[1]]), type=ir.TensorType(ir.DataType.INT64)
    )
    levels = named("palette", palette)
    shape = named("shape", np.array([0, *grid, 1], dtype=np.int64))
    looked_up = ir.Node("", "Gather", [levels, tokens], name="/palette")
    pictures = ir.Node("", "Reshape", [looked_up.outputs[0], shape], name="/reshape")
    # A 0 in the shape copies the batch; the tokens' own dimension becomes the grid.
    pictures.outputs[0].name = "images"
    pictures.outputs[0].shape = ir.Shape(["batch", *grid, 1])
    pictures.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    graph = ir.Graph(
        [tokens],
        [pictures.outputs[0]],
        nodes=[looked_up, pictures],
        initializers=[levels, shape],
        opset_imports={"": OPSET},
        name="image_decoder",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="compress")


def named(name: str, array: NDArray) -> ir.Value:
    """A constant that says its shape and type, as it does when it is read from a file."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))


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
