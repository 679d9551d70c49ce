"""Edits of graphs, each on a graph of two nodes that is run before and after."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.verifying.selftest import graph_edits as edits

MATRIX = np.array([[1, 2], [3, 4]], dtype=np.float32)


@pytest.fixture
def model() -> onnx.ModelProto:
    """y = relu(x @ w), z = y + y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], "/product"),
        helper.make_node("Relu", ["product"], ["y"], "/relu"),
        helper.make_node("Add", ["y", "y"], ["z"], "/sum"),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("y", "z")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [numpy_helper.from_array(MATRIX, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto, x: list[float] = [1.0, -1.0]) -> tuple[list[float], list[float]]:  # noqa: B006
    """y and z."""
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(["y", "z"], {"x": np.array([x], dtype=np.float32)})
    return y[0].tolist(), z[0].tolist()


def test_the_graph_as_it_is(model) -> None:
    assert run(model, [1, 1]) == ([4, 6], [8, 12])


def test_who_reads_a_value_reads_it_behind_an_operator_and_its_output_stays(model) -> None:
    edits.behind("y", "Mul", edits.number(3))(model)
    assert run(model, [1, 1]) == ([4, 6], [24, 36])


def test_one_reader_alone_can_be_meant(model) -> None:
    edits.joined(edits.behind("x", "Neg", by="/product"), edits.behind("product", "Neg", by="/other"))(model)
    assert run(model, [-1, -1]) == ([4, 6], [8, 12])


def test_what_a_node_makes_is_another_for_all(model) -> None:
    edits.output_behind("y", "Sub", edits.number(10), first=True)(model)
    assert run(model, [1, 1]) == ([6, 4], [12, 8])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edits.rows({0: 1}), [[3, 4], [3, 4]]),
        (edits.columns({0: 1, 1: 0}), [[2, 1], [4, 3]]),
        (edits.added((0, 1), 5), [[1, 7], [3, 4]]),
        (edits.scaled(2, 1), [[1, 2], [6, 8]]),
        (edits.scaled(2), [[2, 4], [6, 8]]),
    ],
)
def test_a_weight_is_what_a_change_makes_of_it(change, expected, model) -> None:
    edits.weight("w", change)(model)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == expected


def test_a_weight_can_be_found_by_who_reads_it(model) -> None:
    edits.weight_read("/product", 1, edits.scaled(2))(model)
    assert run(model, [1, 1])[0] == [8, 12]


def test_columns_may_be_several_wide() -> None:
    wide = np.arange(8).reshape(1, 8)
    assert edits.columns({0: 3, 3: 0}, 2)(wide).tolist() == [[6, 7, 2, 3, 4, 5, 0, 1]]


def test_every_weight_leaves_out_shapes_and_the_sampler(model) -> None:
    others = {"sampling.scale": np.ones(2, np.float32), "sizes": np.ones(2, np.int64), "scalar": np.float32(1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(each), name) for name, each in others.items())
    edits.every_weight(lambda array: array * 2)(model)
    assert [numpy_helper.to_array(each).max() for each in model.graph.initializer] == [8, 1, 1, 1]


def test_nodes_read_others_and_are_others(model) -> None:
    edits.joined(edits.reads("/sum", 1, "product"), edits.operator("/relu", "Abs"))(model)
    assert run(model, [1, -1]) == ([2, 2], [0, 0])


def test_an_attribute_takes_the_place_of_the_one_before(model) -> None:
    edits.joined(edits.operator("/relu", "LeakyRelu"), edits.attribute("/relu", alpha=0.25))(model)
    edits.attribute("/relu", alpha=0.5)(model)
    assert len(edits.node_called(model.graph, "/relu").attribute) == 1
    assert run(model, [1, -1])[0] == [-1, -1]


def cached() -> onnx.ModelProto:
    """present = past and new; seen = present, summed over positions."""
    nodes = [
        helper.make_node("Concat", ["past", "new"], ["present"], "/joined", axis=2),
        helper.make_node("ReduceSum", ["present", "axes"], ["seen"], "/seen", keepdims=0),
    ]
    shape = ["rows", 1, "positions", 1]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("past", "new")]
    outputs = [
        helper.make_tensor_value_info("present", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["rows", 1, 1]),
    ]
    axes = numpy_helper.from_array(np.array([2]), "axes")
    graph = helper.make_graph(nodes, "cache", inputs, outputs, [axes])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def of_cache(model: onnx.ModelProto, past: list[list[float]], new: list[list[float]]) -> tuple[list, list]:
    """The present cache and what was seen of it."""
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: np.array(each, np.float32)[:, None, :, None] for name, each in (("past", past), ("new", new))}
    present, seen = session.run(["present", "seen"], feeds)
    return present[:, 0, :, 0].tolist(), seen[:, 0, 0].tolist()


@pytest.mark.parametrize(
    ("edit", "present", "seen"),
    [
        (edits.shifted("past"), [[1, 1, 2, 9], [4, 4, 5, 9]], [13, 22]),
        (edits.first_rows("past", 1), [[1, 2, 3, 9], [0, 0, 0, 9]], [15, 9]),
        (edits.unwritten("present"), [[1, 2, 3, 0], [4, 5, 6, 0]], [15, 24]),
        (edits.exchanged("past", "new"), [[9, 1, 2, 3], [9, 4, 5, 6]], [15, 24]),
    ],
    ids=["shifted", "first rows", "unwritten", "exchanged"],
)
def test_faults_of_a_cache(edit, present, seen) -> None:
    model = cached()
    edit(model)
    assert of_cache(model, [[1, 2, 3], [4, 5, 6]], [[9], [9]]) == (present, seen)


def test_outputs_of_a_node_change_places() -> None:
    nodes = [helper.make_node("Split", ["x"], ["one", "other"], "/split", axis=0, num_outputs=2)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("one", "other")]
    graph = helper.make_graph(nodes, "split", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    edits.outputs_exchanged("/split")(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(["one"], {"x": np.array([1, 2], np.float32)})[0].tolist() == [2]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edits.weight("none", edits.scaled(2)), "no weight is called none"),
        (edits.behind("none", "Neg"), "nobody reads none"),
        (edits.operator("/none", "Abs"), "no node is called /none"),
    ],
)
def test_what_is_not_in_the_graph_is_named(edit, said, model) -> None:
    with pytest.raises(KeyError, match=re.escape(said)):
        edit(model)
