"""Steps through a graph, and the reason where one cannot be taken."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.match import Miss, constant, integer, made_by, number, require, same, scope, size, source


@pytest.fixture
def norm() -> ir.Node:
    """The norm of x + y, whose width is 3 and whose batch is a symbol."""
    model = ir.from_onnx_text(
        '<ir_version: 11, opset_import: ["" : 23]>'
        "g (float[batch,3] x, float[batch,3] y) => (float[batch,3] z)"
        "<float[3] weight = {1.0, 2.0, 3.0}>"
        "{ s = Add(x, y) z = RMSNormalization <axis = 1, epsilon = 0.5> (s, weight) }"
    )
    add, norm = model.graph
    add.name, norm.name = "/blocks/0/Add", "/blocks/0/norm/RMSNormalization"
    return norm


def test_a_value_is_followed_to_what_made_it(norm) -> None:
    assert made_by(norm.inputs[0], "Sub", "Add").op_type == "Add"


def test_another_operator_is_a_miss_that_names_the_node(norm) -> None:
    with pytest.raises(Miss, match=r"^stopped at /blocks/0/Add: Add is not Mul or Div$"):
        made_by(norm.inputs[0], "Mul", "Div")


def test_inputs_constants_and_what_is_absent_are_made_by_nothing(norm) -> None:
    add = norm.inputs[0].producer()
    with pytest.raises(Miss, match=r"^x is not made by Add$"):
        made_by(add.inputs[0], "Add")
    with pytest.raises(Miss, match=r"^weight is not made by Add$"):
        made_by(norm.inputs[1], "Add")
    with pytest.raises(Miss, match=r"^an absent input is not made by Add or Mul$"):
        made_by(None, "Add", "Mul")


def test_only_initializers_are_constant(norm) -> None:
    assert constant(norm.inputs[1]).tolist() == [1, 2, 3]
    with pytest.raises(Miss, match=r"^s is not constant$"):
        constant(norm.inputs[0])
    with pytest.raises(Miss, match=r"^an absent input is not constant$"):
        constant(None)


def test_attributes_have_defaults(norm) -> None:
    assert (integer(norm, "axis", 7), integer(norm, "groups", 7), integer(norm, "groups")) == (1, 7, 0)
    assert (number(norm, "epsilon", 1.0), number(norm, "alpha", 1.0)) == (0.5, 1.0)


def test_a_condition_that_fails_is_a_miss_at_the_node(norm) -> None:
    require(True, norm, "never said")
    with pytest.raises(Miss, match=r"^stopped at /blocks/0/norm/RMSNormalization: it is too wide$"):
        require(False, norm, "it is too wide")


def test_an_input_that_is_left_out_is_a_miss(norm) -> None:
    assert source(norm, 1).name == "weight"
    norm.replace_input_with(1, None)
    with pytest.raises(Miss, match=r"^stopped at /blocks/0/norm/RMSNormalization: input 1 is absent$"):
        source(norm, 1)


def test_only_numbers_are_sizes(norm) -> None:
    value = norm.outputs[0]
    assert size(value, 1) == 3
    with pytest.raises(Miss, match=r"^z: its size along axis 0 is not known$"):
        size(value, 0)
    with pytest.raises(Miss, match=r"^s: its size along axis 1 is not known$"):
        size(norm.inputs[0], 1)


def test_constants_are_the_same_in_shape_and_every_number() -> None:
    assert same(np.array([1, 2]), np.array([1, 2]))
    assert not same(np.array([1, 2]), np.array([1, 3]))
    assert not same(np.array([1, 1]), np.array(1))  # though they would broadcast


def test_a_nodes_scope_is_its_module(norm) -> None:
    assert scope(norm) == "blocks.0.norm"
    norm.name = "/Add"
    assert scope(norm) == ""
    norm.name = None
    assert scope(norm) == ""
