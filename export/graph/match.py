"""Find patterns in a graph: steps from a value to what made it, and the reason where a step cannot be taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


class Miss(Exception):  # noqa: N818 - an answer, not an error: most nodes are not what a pattern looks for
    """Why a pattern does not hold at a place; the message names the node it stopped at."""


def made_by(value: ir.Value | None, *operators: str) -> ir.Node:
    """The node that makes the value, if it is one of these operators.

    Raises:
        Miss: it is another one, or the value is an input or a constant.
    """
    node = value.producer() if value is not None else None
    if node is None:
        raise Miss(f"{value.name if value is not None else 'an absent input'} is not made by {' or '.join(operators)}")
    if node.op_type not in operators:
        raise Miss(f"stopped at {node.name}: {node.op_type} is not {' or '.join(operators)}")
    return node


def constant(value: ir.Value | None) -> NDArray[Any]:
    """The array of an initializer.

    Raises:
        Miss: the value is computed, fed or absent.
    """
    if value is None or value.const_value is None:
        raise Miss(f"{value.name if value is not None else 'an absent input'} is not constant")
    return value.const_value.numpy()


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """A whole-number attribute."""
    return node.attributes[name].as_int() if name in node.attributes else default


def number(node: ir.Node, name: str, default: float) -> float:
    """A floating-point attribute."""
    return node.attributes[name].as_float() if name in node.attributes else default


def require(condition: bool, node: ir.Node, reason: str) -> None:
    """Go on only if the condition holds at the node.

    Raises:
        Miss: it does not.
    """
    if not condition:
        raise Miss(f"stopped at {node.name}: {reason}")


def source(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that must be there."""
    value = node.inputs[index]
    if value is None:
        raise Miss(f"stopped at {node.name}: input {index} is absent")
    return value


def same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two constants are equal in shape and every number."""
    return first.shape == second.shape and bool(np.array_equal(first, second))


def size(value: ir.Value, axis: int) -> int:
    """A dimension that is known before the graph runs."""
    dimension = value.shape[axis] if value.shape is not None else None
    if not isinstance(dimension, int):
        raise Miss(f"{value.name}: its size along axis {axis} is not known")
    return dimension


def scope(node: ir.Node) -> str:
    """The module a node belongs to, as the state dict names it, by the node's name."""
    return (node.name or "").rpartition("/")[0].strip("/").replace("/", ".")
