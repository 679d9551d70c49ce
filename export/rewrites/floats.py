"""Half precision: the floats of a graph as float16 or bfloat16, and back.

Rewrites work on float32 graphs: `widened` gives them one, `narrowed` makes what they leave half precision again. Which
nodes stay in float32 follows from the graph alone (`float_rules`), so the two are each other's inverse.

A graph's own inputs and outputs stay float32, but for the caches and for what one graph of an engine hands to another;
the sampling behind the logits is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir import DataType

from export.graph.builder import drop_unused_initializers
from export.graph.onnx_model import OnnxModel
from export.rewrites.float_rules import PREFIXES, Rules, Widths
from export.rewrites.single_file import single_file
from export.rewrites.unchanging import unchanging_inputs
from export.runtime.manifest import Floats

TYPES: dict[Floats, tuple[DataType, Any]] = {
    "float32": (DataType.FLOAT, np.float32),
    "float16": (DataType.FLOAT16, np.float16),
    "bfloat16": (DataType.BFLOAT16, ml_dtypes.bfloat16),
}
FLOATS = frozenset(kind for kind, _ in TYPES.values())
GRAPHS = ("decode", "begin", "image_decoder", "image_encoder")  # scales only looks up and adds codes
CAST = "cast_to_"  # begins the names of casts between floats


@dataclass(frozen=True)
class Narrowed:
    """A model in half precision, and how many nodes stayed in float32 for which reason."""

    model: OnnxModel
    wide: dict[str, int]


def narrowed(model: OnnxModel, floats: Floats, wide: Collection[str] = (), layers: Collection[str] = ()) -> Narrowed:
    """A copy of a float32 model whose graphs compute in `floats`, as far as the rules let them.

    Operators called `wide` and nodes of the modules `layers` stay in float32.
    """
    if floats == "float32":
        return Narrowed(model, {})
    rules = Rules(TYPES[floats][0], frozenset(wide), frozenset(layers))
    counts: Counter[str] = Counter()
    graphs: dict[str, Any] = {}
    for role in GRAPHS:
        graph = model.graphs.get(role)
        if graph is None:
            continue
        graphs[role] = graph.clone()
        widths = Widths(graphs[role].graph, rules, unchanging_inputs(model.manifest))
        Narrowing(graphs[role].graph, widths, floats).apply()
        counts.update(widths.reasons.values())
    manifest = replace(
        model.manifest,
        floats=floats,
        float32_layers=tuple(sorted(layers)),
        cache_format=floats if model.manifest.cache_format == "float32" else model.manifest.cache_format,
    )
    made = replace(model, manifest=manifest, **graphs)
    if made.generate is not None:
        made = replace(made, generate=single_file(made))
    return Narrowed(made, dict(counts))


def widened(model: OnnxModel) -> OnnxModel:
    """A copy that computes the same weights in float32; casts between floats are gone."""
    manifest = model.manifest
    if manifest.floats == "float32":
        return model
    graphs: dict[str, Any] = {role: model.graphs[role].clone() for role in GRAPHS if role in model.graphs}
    for graph in graphs.values():
        widen(graph.graph)
    cache = "float32" if manifest.cache_format == manifest.floats else manifest.cache_format
    return replace(model, manifest=replace(manifest, floats="float32", cache_format=cache), **graphs)


class Narrowing:
    """Gives every value of a graph the type that its node computes in, and casts where two types meet."""

    def __init__(self, graph: ir.Graph, widths: Widths, floats: Floats) -> None:
        self.graph, self.widths, self.floats = graph, widths, floats
        self.kind, self.number = TYPES[floats]
        self.casts: dict[tuple[ir.Value, DataType], ir.Value] = {}

    def apply(self) -> None:
        """Do it in place."""
        graph, widths = self.graph, self.widths
        for taken in graph.inputs:
            if taken in widths.narrow:
                taken.type = ir.TensorType(self.kind)
        for node in list(graph):
            if node in widths.untouched:
                continue
            for index, value in enumerate(node.inputs):
                if value is not None and widths.floats(value):
                    wanted = self.kind if widths.takes_narrow(node, index) else DataType.FLOAT
                    node.replace_input_with(index, self.as_type(value, wanted))
            for made in node.outputs:
                if made in widths.narrow:
                    made.type = ir.TensorType(self.kind)
            if widths.narrow.issuperset(node.outputs[:1]):
                retarget(node, DataType.FLOAT, self.kind)
        for index, value in enumerate(list(graph.outputs)):
            self.give_out(index, value)
        drop_unused_initializers(graph)

    def give_out(self, index: int, value: ir.Value) -> None:
        """Let an output of the graph have the type that its reader expects, under its name."""
        if not self.widths.floats(value):
            return
        wanted = self.kind if (value.name or "").startswith(PREFIXES) else DataType.FLOAT
        if self.of(value) == wanted:
            return
        name = value.name or ""
        value.name = f"{name}_{CAST}from"
        made = self.cast(value, wanted)
        made.name, made.shape = name, value.shape
        self.graph.outputs[index] = made
        for use in list(value.uses()):
            if use.node in self.widths.untouched:
                use.node.replace_input_with(use.idx, made)

    def of(self, value: ir.Value) -> DataType:
        """The type that a float value has now."""
        return self.kind if value in self.widths.narrow else DataType.FLOAT

    def as_type(self, value: ir.Value, wanted: DataType) -> ir.Value:
        """A value in one of the two types: itself, a cast of it, or another constant."""
        if value.is_initializer():
            return self.constant(value, wanted)
        return value if self.of(value) == wanted else self.cast(value, wanted)

    def constant(self, value: ir.Value, wanted: DataType) -> ir.Value:
        """A constant in one of the two types, made once."""
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype == wanted or tensor.dtype not in FLOATS:
            return value
        if (value, wanted) not in self.casts:
            shared = any(not self.widths.takes_narrow(use.node, use.idx) for use in value.uses())
            name = f"{value.name}.{self.floats}" if shared else value.name or ""
            if not shared:
                self.graph.initializers.pop(name)
            array = ir.tensor(tensor.numpy().astype(self.number), name=name)
            made = ir.Value(name=name, const_value=array, shape=value.shape, type=ir.TensorType(wanted))
            self.graph.register_initializer(made)
            self.casts[value, wanted] = made
        return self.casts[value, wanted]

    def cast(self, value: ir.Value, wanted: DataType) -> ir.Value:
        """A value cast to a type, once for all that read it so."""
        if (value, wanted) not in self.casts:
            node = cast_node(value, wanted, f"{value.name}/{CAST}{wanted.name.lower()}")
            (made,) = node.outputs
            producer = value.producer()
            if producer is None:
                self.graph.insert_before(self.graph[0], node)
            else:
                self.graph.insert_after(producer, node)
            self.casts[value, wanted] = made
        return self.casts[value, wanted]


def cast_node(value: ir.Value, wanted: DataType, name: str) -> ir.Node:
    """A Cast of a value, called for it."""
    attributes = ir.convenience.convert_attributes({"to": int(wanted)})
    node = ir.Node("", "Cast", [value], attributes, name="/" + name.lstrip("/"))
    (made,) = node.outputs
    made.name, made.shape, made.type = f"{node.name}_output", value.shape, ir.TensorType(wanted)
    return node


def widen(graph: ir.Graph) -> None:
    """Make every half-precision value of a graph float32, in place, and drop casts between floats."""
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in FLOATS - {DataType.FLOAT}:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(DataType.FLOAT)
    for value in values(graph):
        if value.dtype in FLOATS:
            value.type = ir.TensorType(DataType.FLOAT)
    for kind in FLOATS - {DataType.FLOAT}:
        for node in graph:
            retarget(node, kind, DataType.FLOAT)
    for node in list(graph):
        if is_cast(node):
            remove_cast(graph, node)


def is_cast(node: ir.Node) -> bool:
    """Whether narrowing added a node."""
    return node.op_type == "Cast" and (node.name or "").rpartition("/")[2].startswith(CAST)


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Inputs, and what nodes give."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def retarget(node: ir.Node, before: DataType, after: DataType) -> None:
    """Let a node whose attributes name a type give another one."""
    to = node.attributes.get("to")
    if node.op_type == "Cast" and to is not None and to.as_int() == int(before):
        node.attributes["to"] = ir.AttrInt64("to", int(after))
    filling = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (filling is None or filling.as_tensor().dtype == before):
        number = next(each for kind, each in TYPES.values() if kind == after)
        array = np.zeros(1) if filling is None else filling.as_tensor().numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(array.astype(number)))


def remove_cast(graph: ir.Graph, node: ir.Node) -> None:
    """Let what read a cast read what was cast; an output of the graph keeps its name."""
    source, made = node.inputs[0], node.outputs[0]
    assert source is not None
    if made.is_graph_output():
        name, made.name = made.name, None
        source.name = name
    ir.convenience.replace_all_uses_with(made, source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
