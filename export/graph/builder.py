"""Write nodes into a graph: every rewrite of a graph (lowering, static cache, fusions) adds its nodes through this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"

Attribute = int | float | str | list[int] | ir.Graph


def tensor_type(kind: str) -> ir.TensorType:
    """The type of a tensor by the name of its NumPy type."""
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(kind)))


def constant(value: ir.Value | None) -> NDArray[Any]:
    """The array behind an initializer."""
    assert value is not None
    assert value.const_value is not None, value.name
    return value.const_value.numpy()


class Builder:
    """Adds nodes before one node, or at the end, and initializers, with names below a scope."""

    def __init__(self, graph: ir.Graph, before: ir.Node | None, scope: str) -> None:
        self.graph, self.before, self.scope = graph, before, scope

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        suffix: str = "",
        domain: str = "",
        outputs: int = 1,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> list[ir.Value]:
        """The outputs of a new node, which is called for its operator or for the suffix."""
        path = f"/{self.scope.replace('.', '/')}/{suffix or op}"
        made = ir.Node(
            domain,
            op,
            list(inputs),
            ir.convenience.convert_attributes(attributes or {}),
            num_outputs=outputs,
            name=path,
        )
        for index, value in enumerate(made.outputs):
            value.name = f"{path}_output" + (f"_{index}" if index else "")
        if self.before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(self.before, made)
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        return list(made.outputs)

    def add(
        self, op: str, inputs: Sequence[ir.Value | None], suffix: str = "", domain: str = "", **attributes: Attribute
    ) -> ir.Value:
        """The one output of a new node."""
        return self.node(op, inputs, suffix, domain, attributes=attributes)[0]

    def initializer(self, suffix: str, array: NDArray[Any]) -> ir.Value:
        """A constant of the scope; one of the same name is replaced."""
        name = f"{self.scope}.{suffix}"
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)  # ascontiguousarray makes scalars 1-D
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        before = self.graph.initializers.pop(name, None)
        self.graph.register_initializer(value)
        if before is not None:  # who reads the name reads the new one
            ir.convenience.replace_all_uses_with(before, value)
        return value

    def numbers(self, name: str, *values: int) -> ir.Value:
        """A constant (n,) of whole numbers, made once."""
        full = f"{self.scope}.{name}"
        return self.graph.initializers.get(full) or self.initializer(name, np.array(values, dtype=np.int64))


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Forget constants that no node reads any more."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
