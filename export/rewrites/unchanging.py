"""Which values of a decode graph never change while a picture is drawn, and which of them depend on the position.

Letters: B batch, S positions of a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from export.graph.match import integer
from export.graph.weights import LOOKUPS
from export.runtime.manifest import Manifest

PRODUCTS = ("MatMul", "MatMulNBits", "Gemm", "Conv")
NOWHERE = -1  # the axis of the positions, of a value that has none
# Operators that work on each number alone, whose inputs are aligned from the last axis.
ELEMENTWISE = {
    *("Abs", "Add", "BiasGelu", "Cast", "Clip", "DequantizeLinear", "Div", "Erf", "Exp", "FastGelu", "Gelu"),
    *("Identity", "Max", "Min", "Mul", "Neg", "Pow", "QuantizeLinear", "QuickGelu", "Reciprocal", "Round", "Sigmoid"),
    *("Sqrt", "Sub", "Tanh", "Where"),
}  # fmt: skip


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


def learn(graph: ir.Graph, constant: Sequence[ir.Value]) -> Unchanging:
    """What never changes where these inputs do not."""
    assert constant[0].shape is not None
    facts = Unchanging(constant[0].shape[0], set(call_positions(graph)), dict.fromkeys(constant, NOWHERE))
    for node in graph:
        facts.take(node)
    return facts


def unchanging_inputs(manifest: Manifest) -> tuple[str, ...]:
    """Inputs of the decode graph that are the same at every step of a picture.

    A growing cache takes the features of a text in the first call alone.
    """
    whole = manifest.shape.drawing.masks or manifest.cache == "static"
    return ("labels", "features") if whole else ("labels",)


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
