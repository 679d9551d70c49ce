"""Nodes and constants are put where they belong, with names below their scope."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.builder import MICROSOFT, Builder, constant, drop_unused_initializers


@pytest.fixture
def graph() -> ir.Graph:
    """y = -(-x)."""
    model = ir.from_onnx_text(
        '<ir_version: 11, opset_import: ["" : 23]>'
        "g (float[2] x) => (float[2] y) <float unused = {1.0}> { t = Neg(x) y = Neg(t) }"
    )
    return model.graph


def test_a_node_is_put_before_its_successor_and_named_below_its_scope(graph) -> None:
    first, second = graph
    made = Builder(graph, second, "blocks.0.ffn").add("Relu", [first.outputs[0]])
    assert [node.op_type for node in graph] == ["Neg", "Relu", "Neg"]
    assert (made.producer().name, made.name) == ("/blocks/0/ffn/Relu", "/blocks/0/ffn/Relu_output")


def test_a_suffix_replaces_the_operators_name_and_attributes_are_kept(graph) -> None:
    made = Builder(graph, graph[0], "a").add("Elu", [graph.inputs[0]], "Smooth", alpha=0.5)
    assert made.producer().name == "/a/Smooth"
    assert made.producer().attributes["alpha"].as_float() == 0.5


def test_several_outputs_are_numbered(graph) -> None:
    outputs = Builder(graph, graph[0], "a").node("Split", [graph.inputs[0]], outputs=3, attributes={"num_outputs": 3})
    assert [value.name for value in outputs] == ["/a/Split_output", "/a/Split_output_1", "/a/Split_output_2"]


def test_operators_of_another_domain_import_it(graph) -> None:
    Builder(graph, graph[0], "a").add("QuickGelu", [graph.inputs[0]], domain=MICROSOFT, alpha=1.0)
    assert graph.opset_imports == {"": 23, MICROSOFT: 1}


def test_an_initializer_keeps_its_numbers_its_type_and_no_dimensions_of_a_scalar(graph) -> None:
    builder = Builder(graph, graph[0], "blocks.0")
    scalar = builder.initializer("scale", np.array(0.5, dtype=np.float32))
    matrix = builder.initializer("weight", np.arange(6, dtype=np.int8).reshape(2, 3).T)
    assert (scalar.name, list(scalar.shape), constant(scalar).shape) == ("blocks.0.scale", [], ())
    assert (list(matrix.shape), matrix.dtype) == ([3, 2], ir.DataType.INT8)
    assert constant(matrix).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_an_initializer_of_the_same_name_is_replaced(graph) -> None:
    builder = Builder(graph, graph[0], "a")
    builder.initializer("one", np.array(1))
    second = builder.initializer("one", np.array(2))
    assert graph.initializers["a.one"] is second


def test_constants_that_nothing_reads_are_dropped(graph) -> None:
    builder = Builder(graph, graph[1], "a")
    builder.add("Add", [graph.inputs[0], builder.initializer("read", np.ones(2, dtype=np.float32))])
    drop_unused_initializers(graph)
    assert list(graph.initializers) == ["a.read"]
