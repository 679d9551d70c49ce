"""Matrix products with constant weights in every form that lowering writes, and how several become one.

Letters: K inputs, N outputs.

| form | what it is |
|---|---|
| MatMul(x, W) | float weights (K, N) |
| MatMul(x, DequantizeLinear(W)) | integer or FP8 weights (K, N) |
| MatMul(DequantizeLinear(QuantizeLinear(x)), DequantizeLinear(W)) | and x rounded with one calibrated scale |
| MatMulNBits(x, W) | weights packed by blocks, (N, blocks, bytes), with zero points or without |
| Add(any of these, bias) | and a bias (N,) |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Attribute, Builder
from export.graph.match import constant, made_by, require, same, scope, source

FLOAT = ir.TensorType(ir.DataType.FLOAT)
PRODUCTS = ("MatMul", "MatMulNBits")


@dataclass(frozen=True)
class Product:
    """One product: its node, the DequantizeLinear of its weights if they have one, and its bias if it has one."""

    node: ir.Node
    weights: ir.Node | None
    bias: ir.Value | None

    @classmethod
    def behind(cls, value: ir.Value) -> Product:
        """The product that makes this value.

        Raises:
            Miss: none does.
        """
        node, bias = made_by(value, "Add", *PRODUCTS), None
        if node.op_type == "Add":
            bias = source(node, 1)
            require(len(constant(bias).shape) == 1, node, "it does not add a bias")
            node = made_by(node.inputs[0], *PRODUCTS)
        if node.op_type == "MatMulNBits":
            require(len(node.inputs) <= 4, node, "it has an order of groups, or a bias of its own")
            return cls(node, None, bias)
        weights = source(node, 1).producer()
        if weights is None:
            constant(node.inputs[1])
        else:
            require(weights.op_type == "DequantizeLinear", weights, "its weights are not constant")
        return cls(node, weights, bias)

    @property
    def packs(self) -> bool:
        """Whether weights are (N, ...), as MatMulNBits has them, and not (..., N)."""
        return self.node.op_type == "MatMulNBits"

    @property
    def constants(self) -> list[NDArray[Any]]:
        """Weights, and scales and zero points where there are any."""
        holder, first = (self.weights, 0) if self.weights is not None else (self.node, 1)
        return [constant(value) for value in holder.inputs[first:]]

    @property
    def outputs(self) -> int:
        """N."""
        return int(self.constants[0].shape[0 if self.packs else -1])

    @property
    def rounding(self) -> ir.Node | None:
        """The QuantizeLinear of the input, if it has one."""
        restored = source(self.node).producer()
        if restored is None or restored.op_type != "DequantizeLinear":
            return None
        return made_by(restored.inputs[0], "QuantizeLinear")

    def check_like(self, other: Product) -> None:
        """Refuse another product that does not read the same numbers in the same form.

        Raises:
            Miss: says what differs.
        """
        node, own, theirs = other.node, self.rounding, other.rounding
        require(node.op_type == self.node.op_type, node, f"it is not a {self.node.op_type} like {self.node.name}")
        require((other.weights is None) == (self.weights is None), node, "only one of the two is quantized")
        require((other.bias is None) == (self.bias is None), node, "only one of the two has a bias")
        require(attributes(self) == attributes(other), node, f"its number format is not that of {self.node.name}")
        kinds = [[each.dtype for each in product.constants] for product in (self, other)]
        require(kinds[0] == kinds[1], node, f"its number format is not that of {self.node.name}")
        if own is None or theirs is None:
            require(source(node) is source(self.node), node, f"it does not read what {self.node.name} reads")
            return
        require(source(own) is source(theirs), node, f"it does not read what {self.node.name} reads")
        pairs = zip(own.inputs[1:], theirs.inputs[1:], strict=True)
        equal = all(same(constant(first), constant(second)) for first, second in pairs)
        require(equal, theirs, f"its scale is not that of {own.name}")


def attributes(product: Product) -> dict[str, Attribute]:
    """What a product's number format says besides its constants; the number of outputs is not part of it."""
    node = product.weights if product.weights is not None else product.node
    return {name: attribute.value for name, attribute in node.attributes.items() if name != "N"}


def pack(values: Sequence[ir.Value], name: str, before: ir.Node, graph: ir.Graph) -> tuple[ir.Value, list[int]]:
    """One product (..., sum of N) in place of several of the same input, and the N of each.

    The old products stay until nothing reads them.

    Raises:
        Miss: they are not products of one input in one form.
    """
    first, *others = products = [Product.behind(value) for value in values]
    for product in others:
        first.check_like(product)
    outputs = [product.outputs for product in products]
    builder = Builder(graph, before, f"{scope(first.node).rpartition('.')[0]}.{name}")

    def joined(suffix: str, parts: Sequence[NDArray[Any]], axis: int) -> ir.Value:
        return builder.initializer(suffix, np.concatenate(parts, axis=axis))

    columns = list(zip(*(product.constants for product in products), strict=True))
    constants = [
        joined(suffix, parts, 0 if first.packs else -1)
        for suffix, parts in zip(("weight", "weight_scale", "weight_zero_point"), columns, strict=False)
    ]
    if first.weights is not None:
        constants = builder.node("DequantizeLinear", constants, "DequantizeWeight", attributes=attributes(first))
    own = {**attributes(first), "N": sum(outputs)} if first.packs else {}
    inputs = [source(first.node), *constants]
    result, *_ = builder.node(first.node.op_type, inputs, domain=first.node.domain, attributes=own)
    if first.bias is not None:
        result = builder.add("Add", [result, joined("bias", [constant(product.bias) for product in products], 0)])
    result.type, result.shape = FLOAT, resized(source(first.node), sum(outputs))
    return result, outputs


def split(packed: ir.Value, outputs: Sequence[int], name: str, before: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """The parts of a packed product."""
    builder = Builder(graph, before, name)
    sizes = builder.initializer("sizes", np.array(outputs, dtype=np.int64))
    parts = builder.node("Split", [packed, sizes], outputs=len(outputs), attributes={"axis": -1})
    for part, count in zip(parts, outputs, strict=True):
        part.type, part.shape = FLOAT, resized(packed, count)
    return parts


def resized(value: ir.Value, last: int) -> ir.Shape | None:
    """The value's shape with another last dimension, if it is known."""
    return ir.Shape([*value.shape[:-1], last]) if value.shape is not None else None
