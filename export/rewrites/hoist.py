"""Hoist what does not change while a picture is drawn: it moves to a graph of its own that runs once, before the steps.

Letters: B batch, S positions of a call, L positions of a picture, N numbers of a position, D width.

What the classes decide, and in a masked model the features of a text, is the same at every step: modulation, keys and
values of attention to a text. The graph `begin` computes it of `labels` (and `features`); its outputs are inputs of the
decode graph, called `begin.` and the module they come from. What depends on the position of a call too (a causal model
modulated by class and position) is computed for all positions in one product, (B, L, N) together, and the decode graph
takes the rows of its positions.

Only what a product or a table of weights is behind moves: it saves reading those weights at every step. Nodes that only
make a value larger stay, so that the narrow value is what the steps read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.graph.builder import Builder, drop_unused_initializers
from export.graph.match import integer, scope
from export.graph.onnx_model import OnnxModel
from export.graph.weights import LOOKUPS, bytes_read
from export.runtime.manifest import BEGIN, Manifest

PREFIX = "begin."
TOGETHER = f"{PREFIX}positions"  # everything that depends on the position, beside each other
PRODUCTS = ("MatMul", "MatMulNBits", "Gemm", "Conv")
NOWHERE = -1  # the axis of the positions, of a value that has none
FLOAT_BYTES = 4
# Operators that work on each number alone, whose inputs are aligned from the last axis.
ELEMENTWISE = {
    *("Abs", "Add", "BiasGelu", "Cast", "Clip", "DequantizeLinear", "Div", "Erf", "Exp", "FastGelu", "Gelu"),
    *("Identity", "Max", "Min", "Mul", "Neg", "Pow", "QuantizeLinear", "QuickGelu", "Reciprocal", "Round", "Sigmoid"),
    *("Sqrt", "Sub", "Tanh", "Where"),
}  # fmt: skip


WIDENING = ("Expand", "Tile")


class HoistError(ValueError):
    """Nothing can be hoisted; the message says why."""


@dataclass(frozen=True)
class Hoisted:
    """The model with its graph `begin`, and what moved: nodes, values, bytes of weights, bytes that a row reads now."""

    model: OnnxModel
    nodes: int = 0
    values: int = 0
    weight_bytes: int = 0
    row_bytes: int = 0


@dataclass
class Unchanging:
    """Values that a graph computes of what never changes, with the axis of their positions, and what is behind them.

    `axes` knows every such value that is computed; `product` a product behind it, by which it is named.
    """

    batch: int | ir.SymbolicDim
    positions: set[ir.Value]
    axes: dict[ir.Value, int] = field(default_factory=dict)
    ranks: dict[ir.Value, int] = field(default_factory=dict)
    product: dict[ir.Value, ir.Node] = field(default_factory=dict)
    constants: set[ir.Value] = field(default_factory=set)

    def is_constant(self, value: ir.Value) -> bool:
        """Whether a value is given with the graph, or computed of such values alone."""
        return value.is_initializer() or value in self.constants

    def rank(self, value: ir.Value) -> int | None:
        """Axes of a value, where they are known."""
        return len(value.shape) if value.shape is not None else self.ranks.get(value)

    def take(self, node: ir.Node) -> None:
        """Learn whether a node's outputs never change."""
        axes = self.outputs(node)
        if axes is None:
            return
        given = [value for value in node.inputs if value is not None]
        behind = next((self.product[value] for value in given if value in self.product), None)
        if node.op_type in PRODUCTS or (node.op_type in LOOKUPS and is_table(given[0]) and axes[0] == NOWHERE):
            behind = node
        for value, axis in zip(node.outputs, axes, strict=True):
            self.axes[value] = axis
            rank = self.result_rank(node)
            if rank is not None:
                self.ranks.setdefault(value, rank)
            if behind is not None:
                self.product[value] = behind

    def result_rank(self, node: ir.Node) -> int | None:
        """Axes of a node's outputs, where the graph does not say."""
        if node.op_type in ELEMENTWISE:
            found = [self.rank(value) for value in node.inputs if value is not None]
            return None if None in found else max(each for each in found if each is not None)
        if node.op_type == "Reshape" and (shape := numbers(node, 1)) is not None:
            return len(shape)
        return self.rank(node.inputs[0]) if node.inputs[0] is not None else None

    def outputs(self, node: ir.Node) -> list[int] | None:
        """The axis of the positions in each output of a node; None where it changes."""
        given = [value for value in node.inputs if value is not None]
        if is_batch(node, self.batch):
            return [NOWHERE]
        if given and all(self.is_constant(value) for value in given):
            self.constants.update(node.outputs)  # dequantized weights; constants stay where they are read
            return None
        if node.op_type == "Gather" and given[1] in self.positions:
            return [0] if is_table(given[0]) and integer(node, "axis") == 0 else None
        if any(value not in self.axes and not self.is_constant(value) for value in given) or any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            return None
        found = [self.axes.get(value, NOWHERE) for value in given]
        if max(found) == NOWHERE:
            return [NOWHERE] * len(node.outputs)
        axis = self.positional(node, found)
        return None if axis is None else [axis] * len(node.outputs)

    def positional(self, node: ir.Node, found: Sequence[int]) -> int | None:
        """The axis of the positions behind a node that works on each position alone; None for every other node."""
        first, rank = found[0], self.rank(node.inputs[0]) if node.inputs[0] is not None else None
        if node.op_type in ELEMENTWISE:
            return self.aligned(node, found)
        if first == NOWHERE or rank is None or any(axis != NOWHERE for axis in found[1:]):
            return None
        last = first == rank - 1
        if node.op_type in ("MatMul", "MatMulNBits"):
            return None if last else first
        if node.op_type in ("LayerNormalization", "RMSNormalization"):
            return None if last or integer(node, "axis", -1) not in (-1, rank - 1) else first
        if node.op_type == "Split":
            return None if integer(node, "axis") % rank == first else first
        if node.op_type in ("ReduceMax", "Slice"):
            axes = numbers(node, 1 if node.op_type == "ReduceMax" else 3)
            return None if axes is None or first in [each % rank for each in axes] else first
        if node.op_type == "Reshape":
            shape = numbers(node, 1)
            kept = shape is not None and integer(node, "allowzero") == 0 and shape[: first + 1] == [0] * (first + 1)
            return first if kept else None
        if node.op_type == "Pad":
            pads = numbers(node, 1)
            return first if pads is not None and pads[first] == pads[first + rank] == 0 else None
        return None

    def aligned(self, node: ir.Node, found: Sequence[int]) -> int | None:
        """The axis of the positions where shapes are aligned from the last axis and other inputs have one row there."""
        ranks = [self.rank(value) for value in node.inputs if value is not None]
        known = [rank for rank in ranks if rank is not None]
        if len(known) < len(ranks):
            return None
        from_last = {rank - axis for rank, axis in zip(known, found, strict=True) if axis != NOWHERE}
        if len(from_last) != 1:
            return None
        (place,) = from_last
        for value, rank, axis in zip((each for each in node.inputs if each is not None), known, found, strict=True):
            if axis == NOWHERE and rank >= place and (value.shape is None or value.shape[rank - place] != 1):
                return None
        return max(known) - place


def hoist(model: OnnxModel) -> Hoisted:
    """Move what does not change in the loop of a copy of the model to its graph `begin`.

    Raises:
        HoistError: the model has one already.
    """
    manifest = model.manifest
    if model.begin is not None and reads_text_before(manifest):
        return Hoisted(model)  # as it was exported
    if model.begin is not None:
        raise HoistError("the model is hoisted already; name it once")
    decode = model.decode.clone()
    graph = decode.graph
    constant = [value for value in graph.inputs if value.name in unchanging_inputs(manifest)]
    if not constant:
        return Hoisted(model)
    facts = learn(graph, constant)
    moved = frontier(graph, facts)
    if not moved:
        return Hoisted(model)
    names = readable(moved, facts)
    begin = beginning(decode, names, facts, manifest)
    nodes = len(list(graph))
    take_in(graph, names, facts, begin)
    common.RemoveUnusedNodesPass()(decode)
    drop_unused_initializers(graph)
    for value in constant:
        if not value.uses():
            graph.inputs.remove(value)
    return Hoisted(
        replace(
            model, decode=decode, begin=begin, manifest=replace(manifest, files={**manifest.files, "begin": BEGIN})
        ),
        nodes=nodes - len(list(graph)),
        values=len(moved),
        weight_bytes=bytes_read(model.decode) - bytes_read(decode),
        row_bytes=sum(prod(dims(value)[2 if facts.axes[value] != NOWHERE else 1 :]) for value in moved) * FLOAT_BYTES,
    )


def reads_text_before(manifest: Manifest) -> bool:
    """Whether every export has a graph `begin`: a static cache has no place for the features of a text."""
    return manifest.cache == "static" and manifest.shape.text is not None


def unchanging_inputs(manifest: Manifest) -> tuple[str, ...]:
    """Inputs of the decode graph that are the same at every step of a picture.

    A growing cache takes the features of a text in the first call alone.
    """
    whole = manifest.shape.drawing.masks or manifest.cache == "static"
    return ("labels", "features") if whole else ("labels",)


def learn(graph: ir.Graph, constant: Sequence[ir.Value]) -> Unchanging:
    """What never changes where these inputs do not."""
    assert constant[0].shape is not None
    facts = Unchanging(constant[0].shape[0], set(call_positions(graph)), dict.fromkeys(constant, NOWHERE))
    for node in graph:
        facts.take(node)
    return facts


def call_positions(graph: ir.Graph) -> Iterator[ir.Value]:
    """The positions (S,) of a call: 0, 1, 2, ... behind the number of cached tokens."""
    for node in graph:
        if node.op_type != "Add" or node.domain:
            continue
        steps = node.inputs[0].producer() if node.inputs[0] is not None else None
        if steps is not None and steps.op_type == "Range":
            start, _, step = (None if value is None or value.const_value is None else value.const_value.numpy()
                              for value in steps.inputs)  # fmt: skip
            if start is not None and step is not None and (int(start), int(step)) == (0, 1):
                yield node.outputs[0]


def frontier(graph: ir.Graph, facts: Unchanging) -> list[ir.Value]:
    """The values to compute before: those behind a product that a changing node reads, as narrow as they come."""
    moved: dict[ir.Value, None] = {}
    for node in graph:
        for value in node.outputs:
            if value in facts.product and any(use.node.outputs[0] not in facts.axes for use in value.uses()):
                moved[narrow(value, facts)] = None
    return [value for value in moved if is_movable(value, facts)]


def narrow(value: ir.Value, facts: Unchanging) -> ir.Value:
    """The value before it was only made larger."""
    while (node := value.producer()) is not None and node.op_type in WIDENING and node.inputs[0] in facts.product:
        value = node.inputs[0]
    return value


def is_movable(value: ir.Value, facts: Unchanging) -> bool:
    """Whether a value is float32 of a known shape, (B, S, N) where it depends on the positions."""
    if value.shape is None or value.dtype != ir.DataType.FLOAT:
        return False
    axis = facts.axes[value]
    if axis != NOWHERE and (len(value.shape), axis) != (3, 1):
        return False
    fixed = list(value.shape)[2 if axis != NOWHERE else 1 :]
    return all(isinstance(dim, int) for dim in fixed)


def readable(moved: Sequence[ir.Value], facts: Unchanging) -> dict[ir.Value, str]:
    """A name for each value: the module of the product behind it, and a number."""
    counts: dict[str, int] = {}
    names = {}
    for value in moved:
        module = scope(facts.product[value])
        names[value] = f"{PREFIX}{module}.{counts.get(module, 0)}"
        counts[module] = counts.get(module, 0) + 1
    return names


def beginning(decode: ir.Model, names: dict[ir.Value, str], facts: Unchanging, manifest: Manifest) -> ir.Model:
    """The graph that computes these values of the unchanging inputs, those of all positions beside each other."""
    begin = decode.clone()
    graph = begin.graph
    graph.name = "begin"
    inputs = {value.name: value for value in graph.inputs}
    made = {value.name: value for node in graph for value in node.outputs}
    first = inputs["labels"]
    for node in graph:
        if is_batch(node, facts.batch):
            node.replace_input_with(0, first)
    builder = Builder(graph, graph[0], "begin")
    every = builder.initializer("every", np.arange(manifest.shape.reach))
    for value in facts.positions:
        ir.convenience.replace_all_uses_with(made[value.name], every)
    outputs, together = [], []
    for value, name in names.items():
        own = made[value.name]
        if facts.axes[value] == NOWHERE:
            own.name = name
            outputs.append(own)
        else:
            together.append(own)
    if together:
        joined = ir.Node("", "Concat", together, ir.convenience.convert_attributes({"axis": 2}), name="/begin/Concat")
        graph.append(joined)
        output = joined.outputs[0]
        widths = sum(dims(value)[2] for value in names if facts.axes[value] != NOWHERE)
        output.name, output.dtype = TOGETHER, ir.DataType.FLOAT
        output.shape = ir.Shape([facts.batch, manifest.shape.reach, widths])
        outputs.append(output)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    common.RemoveUnusedNodesPass()(begin)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None  # of a call's positions; here they are all
    keep_classes_alone(graph, first, manifest)
    drop_unused_initializers(graph)
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
    return begin


def keep_classes_alone(graph: ir.Graph, labels: ir.Value, manifest: Manifest) -> None:
    """Of a table of all embeddings, its scales and its zero points, only the rows of the classes are read here."""
    cut: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        table, index = node.inputs[:2] if node.op_type in LOOKUPS else (None, None)
        added = index.producer() if index is not None else None
        if added is None or added.op_type != "Add" or added.inputs[0] is not labels or not is_table(table):
            continue
        offset = added.inputs[1]
        if offset is None or offset.const_value is None:
            continue
        start = int(offset.const_value.numpy())
        # GatherBlockQuantized has scales beside its codes, and zero points.
        for place in (each for each in range(len(node.inputs)) if each != 1):
            whole = node.inputs[place]
            assert whole is not None
            assert whole.const_value is not None
            if whole not in cut:
                kept = whole.const_value.numpy()[start : start + manifest.shape.classes + 1]
                suffix = f"classes.{len(cut)}" if cut else "classes"
                cut[whole] = Builder(graph, node, "begin").initializer(suffix, kept)
            node.replace_input_with(place, cut[whole])
        node.replace_input_with(1, labels)
        if not added.outputs[0].uses():
            graph.remove(added, safe=True)


def take_in(graph: ir.Graph, names: dict[ir.Value, str], facts: Unchanging, begin: ir.Model) -> None:
    """Let the decode graph read the values instead of computing them."""
    outputs = {value.name: value for value in begin.graph.outputs}
    for value, name in names.items():
        if facts.axes[value] == NOWHERE:
            ir.convenience.replace_all_uses_with(value, fed(graph, outputs[name], value.shape))
    apart = [value for value in names if facts.axes[value] != NOWHERE]
    if not apart:
        return
    whole = fed(graph, outputs[TOGETHER], outputs[TOGETHER].shape)
    positions = next(value for node in graph for value in node.outputs if value in facts.positions)
    nodes = list(graph)
    builder = Builder(graph, nodes[nodes.index(positions.producer()) + 1], "begin")  # type: ignore[arg-type]
    rows = builder.add("Gather", [whole, positions], axis=1)  # (B, S, N)
    sizes = builder.initializer("sizes", np.array([dims(value)[2] for value in apart], dtype=np.int64))
    parts = builder.node("Split", [rows, sizes], outputs=len(apart), attributes={"axis": 2})
    for value, part in zip(apart, parts, strict=True):
        part.shape, part.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, part)


def fed(graph: ir.Graph, output: ir.Value, shape: ir.Shape | None) -> ir.Value:
    """A new input of the decode graph that is an output of the other."""
    value = ir.Value(name=output.name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    return value


def is_batch(node: ir.Node, batch: int | ir.SymbolicDim) -> bool:
    """Whether a node says how many rows a call has."""
    if node.op_type != "Shape" or (integer(node, "start"), integer(node, "end")) != (0, 1):
        return False
    value = node.inputs[0]
    return value is not None and value.is_graph_input() and value.shape is not None and value.shape[0] == batch


def is_table(value: ir.Value | None) -> bool:
    """Whether a value is a constant matrix of numbers with a point."""
    return value is not None and value.is_initializer() and value.shape is not None and len(value.shape) == 2


def numbers(node: ir.Node, index: int) -> list[int] | None:
    """A constant input of whole numbers; None where it is computed or absent."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None or value.const_value is None:
        return None
    return [int(each) for each in value.const_value.numpy().ravel()]


def dims(value: ir.Value) -> list[int]:
    """The dimensions of a value; 0 for those that are not known before the graph runs."""
    assert value.shape is not None
    return [dim if isinstance(dim, int) else 0 for dim in value.shape]
