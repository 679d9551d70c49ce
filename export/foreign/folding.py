"""Which constants of a foreign graph are computed while it is read: those whose result stays small.

A node of a few bytes can stand for terabytes: Expand, Range or a product of a column and a row. onnxscript computes a
node first and looks at its size afterwards, so the size is bounded here from the inputs.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

MOST_NUMBERS = 2**24  # that one node may make of smaller ones
MOST_GROWTH = 2**26  # that all such nodes may make together
# Results have as many numbers as the inputs together, or fewer.
KEEPING = frozenset(
    (
        *("Abs", "ArgMax", "ArgMin", "Cast", "CastLike", "Ceil", "Clip", "Concat", "Cos", "CumSum", "Erf", "Exp"),
        *("Flatten", "Floor", "Identity", "Log", "Neg", "Not", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin"),
        *("ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid"),
        *("Sign", "Sin", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Tanh", "Transpose", "Trilu"),
        "Unsqueeze",
    )
)
BROADCASTING = frozenset(
    (
        *("Add", "And", "BitShift", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"),
        *("Mod", "Mul", "Or", "Pow", "Sub", "Where", "Xor"),
    )
)


class Folding:
    """Says of one node after the other whether it may be computed now, and remembers how much was made already."""

    def __init__(self) -> None:
        self.left = MOST_GROWTH

    def __call__(self, node: ir.Node) -> bool | None:
        """None leaves it to onnxscript's own rules; False keeps the node for the runtime."""
        if node.domain in ("", "ai.onnx") and node.op_type in KEEPING:
            return None
        size = made_by(node)
        if size is None or size > min(MOST_NUMBERS, self.left):
            return False
        self.left -= size
        return None


def made_by(node: ir.Node) -> int | None:
    """Numbers of a node's result, from its constant inputs; None of operators whose result is not foreseen here."""
    inputs = [value.const_value for value in node.inputs if value is not None]
    shapes = [tuple(map(int, each.shape.numpy())) for each in inputs if each is not None]
    if node.domain not in ("", "ai.onnx") or len(shapes) != len(inputs):
        return None
    try:
        if node.op_type in BROADCASTING:
            return math.prod(np.broadcast_shapes(*shapes))
        if node.op_type == "Expand":
            return math.prod(np.broadcast_shapes(shapes[0], tuple(whole(inputs[1]))))
        if node.op_type == "Range":
            start, limit, delta = (each.numpy().item() for each in inputs if each is not None)
            count: int = math.ceil((limit - start) / delta)
            return max(0, count)
        if node.op_type == "Tile":
            return math.prod(shapes[0]) * math.prod(whole(inputs[1]))
        if node.op_type == "Gather":
            return math.prod(shapes[1]) * (math.prod(shapes[0]) // max(1, min(shapes[0], default=1)))
        if node.op_type == "MatMul":
            return math.prod(shapes[0]) * math.prod(shapes[1])
    except (ValueError, IndexError, ArithmeticError, TypeError):  # a node that no runtime computes either
        return None
    return None


def whole(tensor: ir.TensorProtocol | None) -> list[int]:
    """A short constant of whole numbers.

    Raises:
        ValueError: it is missing or long.
    """
    if tensor is None or tensor.size > MOST_AXES:
        raise ValueError("no shape")
    return [int(each) for each in tensor.numpy().ravel()]


MOST_AXES = 64  # NumPy's own end
