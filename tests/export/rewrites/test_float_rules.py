"""What of a graph stays in float32 in half precision, and why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir import DataType

from export.graph.builder import Builder
from export.rewrites.float_rules import Rules, Widths

HALF = Rules(DataType.FLOAT16)


def graph_of(*inputs: str) -> ir.Graph:
    """A graph of inputs (4, 8)."""
    given = [ir.Value(name=name, shape=ir.Shape([4, 8]), type=ir.TensorType(DataType.FLOAT)) for name in inputs]
    return ir.Graph(given, [], nodes=[], opset_imports={"": 23}, name="test")


def array(build: Builder, name: str, *numbers: float) -> ir.Value:
    """A constant of floats."""
    return build.initializer(name, np.array(numbers, dtype=np.float32))


def reasons(graph: ir.Graph, rules: Rules = HALF, condition: tuple[str, ...] = ("labels",)) -> dict[str, str]:
    """The reason of each node by its operator; empty where it is narrow."""
    widths = Widths(graph, rules, condition)
    return {node.op_type: widths.reasons.get(node, "") for node in graph}


def test_a_norm_in_single_operators_stays_in_float32_and_what_is_behind_it_does_not() -> None:
    graph = graph_of("tokens")
    build = Builder(graph, None, "norm")
    x = build.add("MatMul", [graph.inputs[0], build.initializer("weight", np.ones((8, 8), dtype=np.float32))])
    mean = build.add("ReduceMean", [build.add("Pow", [x, array(build, "two", 2)]), build.numbers("last", -1)])
    scale = build.add("Sqrt", [build.add("Add", [mean, array(build, "epsilon", 1e-6)])])
    normed = build.add("Div", [x, scale])
    made = build.add("Gemm", [normed, build.initializer("other", np.ones((8, 8), dtype=np.float32))])
    graph.outputs.append(made)
    found = reasons(graph)
    assert found["MatMul"] == found["Gemm"] == ""
    assert {found[name] for name in ("Pow", "ReduceMean", "Sqrt", "Div")} == {"statistics"}
    assert found["Add"] == "constants"  # 1e-6 is no number with all its bits


@pytest.mark.parametrize(("number", "reason"), [(0.5, ""), (1e-12, "constants"), (1e5, "constants"), (np.inf, "")])
def test_arithmetic_with_a_constant_that_the_type_cannot_hold_stays_in_float32(number, reason) -> None:
    graph = graph_of("past.0.key")
    build = Builder(graph, None, "part")
    graph.outputs.append(build.add("Max", [graph.inputs[0], array(build, "least", number)]))
    assert reasons(graph)["Max"] == reason
    assert reasons(graph, Rules(DataType.BFLOAT16))["Max"] == ""


def test_what_depends_on_the_class_alone_stays_in_float32() -> None:
    graph = graph_of("tokens", "labels")
    build = Builder(graph, None, "modulation")
    weight = build.initializer("weight", np.ones((8, 8), dtype=np.float32))
    scale = build.add("MatMul", [build.add("Sigmoid", [graph.inputs[1]]), weight])
    x = build.add("Gemm", [graph.inputs[0], weight])
    graph.outputs.append(build.add("Add", [x, scale]))
    assert reasons(graph) == {"Sigmoid": "input", "MatMul": "conditioning", "Gemm": "", "Add": ""}


def test_distances_to_codes_stay_in_float32_back_to_the_last_norm() -> None:
    graph = graph_of("images")
    build = Builder(graph, None, "encoder")
    weight = build.initializer("weight", np.ones((8, 8), dtype=np.float32))
    one = build.initializer("one", np.ones(8, dtype=np.float32))
    x = build.add("RMSNormalization", [build.add("Gemm", [graph.inputs[0], weight]), one])
    graph.outputs.append(build.add("ArgMin", [build.add("MatMul", [x, weight])], axis=-1))
    assert reasons(graph) == {"Gemm": "", "RMSNormalization": "", "MatMul": "codes", "ArgMin": "codes"}


def test_operators_of_a_target_and_layers_that_overflow_stay_in_float32() -> None:
    graph = graph_of("past.0.key")
    build = Builder(graph, None, "blocks.3.ffn")
    one = build.initializer("one", np.ones(8, dtype=np.float32))
    normed = build.add("LayerNormalization", [graph.inputs[0], one, one])
    graph.outputs.append(build.add("Sigmoid", [normed]))
    assert reasons(graph) == {"LayerNormalization": "", "Sigmoid": ""}
    assert reasons(graph, Rules(DataType.FLOAT16, wide=("LayerNormalization",)))["LayerNormalization"] == "statistics"
    assert reasons(graph, Rules(DataType.FLOAT16, layers=("blocks.3.ffn",)))["Sigmoid"] == "overflow"
    assert reasons(graph, Rules(DataType.FLOAT16, layers=("blocks.3",)))["Sigmoid"] == ""  # another module


@pytest.mark.parametrize(("scale", "reason"), [(1e-3, ""), (2e-5, ""), (1e-6, "constants")])
def test_products_whose_scales_would_lose_bits_stay_in_float32_with_what_restores_their_operands(scale, reason) -> None:
    graph = graph_of("past.0.key")
    build = Builder(graph, None, "layer")
    zero = build.initializer("zero", np.zeros((), dtype=np.int8))
    step, small = (
        build.initializer(name, np.array(each, dtype=np.float32)) for name, each in (("x", 0.1), ("w", scale))
    )
    rounded = build.add("QuantizeLinear", [graph.inputs[0], step, zero])
    restored = build.add("DequantizeLinear", [rounded, step, zero])
    codes = build.initializer("codes", np.ones((8, 8), dtype=np.int8))
    weight = build.add("DequantizeLinear", [codes, small, zero], "weight")
    graph.outputs.append(build.add("MatMul", [restored, weight]))
    found = reasons(graph)
    assert (found["QuantizeLinear"], found["MatMul"], found["DequantizeLinear"]) == ("", reason, reason)
