"""A transformer of which few layers were traced has the graph of one that was traced whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import nn

from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.passes.quantize import Quantize
from export.tracing import repeated
from export.tracing.export import source_graph
from export.tracing.repeated import Repetition, repetition
from export.tracing.trace import SCOPES

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def content(model: ir.Model) -> bytes:
    """The file of a graph."""
    return ir.to_proto(model).SerializeToString()


def narrowed(transformer: TokenTransformer, *narrow: int) -> TokenTransformer:
    """A fresh transformer with fewer feed-forward units in some layers."""
    layers = transformer.config.layers
    widths = tuple(replace(each, ffn=24) if index in narrow else each for index, each in enumerate(layers))
    torch.manual_seed(1)
    return TokenTransformer(transformer.config.with_layers(widths)).eval()


@pytest.mark.slow
def test_the_graph_is_that_of_a_whole_trace_byte_for_byte(tiny_model, context, monkeypatch) -> None:
    model = tiny_model(layers=5, kv_heads=2)
    model = model.with_transformer(narrowed(model.transformer, 1, 3))
    model = Quantize(weights="int8", activations="int8").run(model, context(model)).model
    plan = repetition(model.transformer)
    assert plan == Repetition(traced=(0, 1, 4), stands=(0, 1, 0, 1, 2))
    graph = source_graph(model.transformer)
    monkeypatch.setattr(repeated, "repetition", lambda transformer: None)
    assert content(graph) == content(source_graph(model.transformer))


def test_a_masked_models_last_layer_is_its_own(tiny_model, monkeypatch) -> None:
    transformer = tiny_model(layers=4, order="masked", positions="learned", class_token=True, bias=True).transformer
    assert repetition(transformer) == Repetition(traced=(0, 3), stands=(0, 0, 0, 1))
    graph = source_graph(transformer)
    monkeypatch.setattr(repeated, "repetition", lambda transformer: None)
    assert content(graph) == content(source_graph(transformer))


def test_layers_with_other_settings_or_constants_are_traced_too(tiny_model) -> None:
    transformer = tiny_model(layers=5).transformer
    transformer.blocks[1].attention.scale = 0.5
    transformer.blocks[2].bias = torch.ones(3)  # neither a parameter nor a buffer
    transformer.blocks[3].bias = torch.zeros(3)
    assert repetition(transformer) is None


@pytest.mark.parametrize("layers", [1, 2])
def test_one_or_two_layers_are_traced_whole(tiny_model, layers: int) -> None:
    assert repetition(tiny_model(layers=layers).transformer) is None


def test_layers_that_share_weights_are_traced_whole(tiny_model) -> None:
    transformer = tiny_model(layers=4).transformer
    transformer.blocks[2].ffn = transformer.blocks[1].ffn
    assert repetition(transformer) is None


def test_layers_that_nobody_can_compare_are_traced_whole(tiny_model) -> None:
    transformer = tiny_model(layers=4).transformer
    transformer.blocks[1].hook = lambda x: x
    assert repetition(transformer) is None


@dataclass(frozen=True)
class Widths:
    """A config with nothing but layers."""

    layers: tuple[int, ...]

    def with_layers(self, layers: tuple[int, ...]) -> Widths:
        """The same with other layers."""
        return Widths(layers)


class Stack(nn.Module):
    """Layers that a graph is written of by hand."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.config = Widths((2,) * count)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))


def written(stack: Any, skips: bool) -> ir.Model:
    """A graph in which each layer adds its bias to what it reads; the last reads the first layer too if it `skips`."""
    x, begins = ir.Value(name="x", type=FLOAT), ir.Value(name="begins", type=FLOAT)
    nodes, made, weights = [ir.Node("", "Identity", [x], outputs=[begins])], [begins], []
    for index, block in enumerate(stack.blocks):
        scope = {SCOPES: f"['', 'transformer', 'transformer.blocks.{index}']"}
        weight = ir.Value(
            name=f"transformer.blocks.{index}.bias", type=FLOAT, const_value=ir.tensor(block.bias.detach())
        )
        weights.append(weight)
        made.append(ir.Value(type=FLOAT))
        nodes.append(ir.Node("", "Add", [made[-2], weight], outputs=[made[-1]], metadata_props=scope))
        if skips and index == len(stack.blocks) - 1:
            last = ir.Value(type=FLOAT)
            nodes.append(ir.Node("", "Add", [made[-1], made[-3]], outputs=[last], metadata_props=scope))
            made.append(last)
    logits = ir.Value(name="logits", type=FLOAT)
    nodes.append(ir.Node("", "Identity", [made[-1]], outputs=[logits]))
    return ir.Model(ir.Graph([x], [logits], nodes=nodes, initializers=weights, opset_imports={"": 23}), ir_version=10)


@pytest.mark.parametrize(("skips", "traces"), [(False, [2]), (True, [2, 5])])
def test_layers_that_are_no_chain_are_traced_whole(skips: bool, traces: list[int]) -> None:
    stack, asked = Stack(5).eval(), []

    def trace(module: Any) -> ir.Model:
        asked.append(len(module.blocks))
        return written(module, skips)

    model = repeated.repeated(stack, 0, trace)
    assert asked == traces
    assert [node.op_type for node in model.graph].count("Add") == 5 + skips
    biases = [model.graph.initializers[f"transformer.blocks.{index}.bias"].const_value for index in range(5)]
    assert all(
        (each.numpy() == block.bias.detach().numpy()).all() for each, block in zip(biases, stack.blocks, strict=True)
    )


def test_the_config_and_weights_of_the_whole_are_left_alone(tiny_model) -> None:
    transformer = tiny_model(layers=4).transformer
    config: TransformerConfig = transformer.config
    short = Repetition((0, 3), (0, 0, 0, 1)).shortened(transformer)
    assert (len(short.blocks), len(short.config.layers)) == (2, 2)
    assert (len(transformer.blocks), transformer.config) == (4, config)
    assert short.blocks[1] is transformer.blocks[3]
