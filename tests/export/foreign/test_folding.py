"""What a constant node would make is known before it is made."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.foreign.folding import MOST_GROWTH, Folding, made_by


def node(op: str, *arrays: object, domain: str = "") -> ir.Node:
    """A node of constants."""
    values = [ir.Value(name=str(place), const_value=ir.tensor(np.asarray(each))) for place, each in enumerate(arrays)]
    return ir.Node(domain, op, values)


COLUMN, ROW = np.ones((8, 1), np.float32), np.ones((1, 9), np.float32)


@pytest.mark.parametrize(
    ("made", "numbers"),
    [
        (node("Add", COLUMN, ROW), 72),
        (node("Expand", COLUMN, np.array([3, 8, 5])), 120),
        (node("Range", np.int64(3), np.int64(10), np.int64(2)), 4),
        (node("Tile", COLUMN, np.array([2, 10**6])), 16_000_000),
        (node("Gather", np.ones((4, 6)), np.array([[0, 1]])), 12),
        (node("MatMul", COLUMN, ROW), 72),
        (node("Expand", COLUMN, np.array([7, 5])), None),
        (node("Range", np.int64(0), np.int64(1), np.int64(0)), None),
        (node("Resize", COLUMN), None),
        (node("Add", COLUMN, ROW, domain="com.microsoft"), None),
    ],
)
def test_the_numbers_of_a_result_are_known_before(made: ir.Node, numbers: int | None) -> None:
    assert made_by(made) == numbers


def test_only_small_results_are_computed_and_not_too_many_of_them() -> None:
    folding = Folding()
    assert folding(node("Transpose", COLUMN)) is None
    assert folding(node("Expand", COLUMN, np.array([10**6, 8, 10**7]))) is False
    assert folding(node("Resize", COLUMN)) is False
    each = node("Expand", COLUMN, np.array([2**20, 8, 1]))
    assert [folding(each) for _ in range(MOST_GROWTH // 2**23)] == [None] * (MOST_GROWTH // 2**23)
    assert folding(each) is False
