"""ONNX Runtime's tools quantize any graph: how near it stays, what is left out, and that logging is left alone."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.saturation import integer_weights, is_limited
from export.rewrites.ort_quantization import quantize_dynamic, quantize_weights, quantized_products

ROWS = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)


def graph(operator: str = "MatMul") -> ir.Model:
    """Two products of 32 x 48 and 48 x 8; the second makes the logits. Nodes have no names."""
    generator = np.random.default_rng(0)
    shapes = {"first": (32, 48), "second": (48, 8)}
    weights = {
        name: ir.Value(name=name, const_value=ir.tensor(generator.normal(size=shape).astype(np.float32), name=name))
        for name, shape in shapes.items()
    }
    x = ir.Value(name="x", shape=ir.Shape(["rows", 32]), type=ir.TensorType(ir.DataType.FLOAT))
    hidden = ir.Node("", operator, [x, weights["first"]])
    active = ir.Node("", "Tanh", [hidden.outputs[0]])
    last = ir.Node("", operator, [active.outputs[0], weights["second"]])
    last.outputs[0].name, last.outputs[0].type = "logits", ir.TensorType(ir.DataType.FLOAT)
    last.outputs[0].shape = ir.Shape(["rows", 8])
    made = ir.Graph([x], last.outputs, nodes=[hidden, active, last], initializers=list(weights.values()),
                    opset_imports={"": 18}, name="decode")  # fmt: skip
    return ir.Model(made, ir_version=9)


def run(model: ir.Model, rows: np.ndarray = ROWS) -> np.ndarray:
    """Logits of three rows."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(["logits"], {"x": rows})[0]


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize("head", [False, True])
def test_dynamic_products_stay_near_and_the_head_is_left_unless_asked_for(operator: str, head: bool) -> None:
    source = graph(operator)
    made = quantize_dynamic(source, reduce_range="pairs", head=head)
    assert (made.quantized, made.left) == ((2, 0) if head else (1, 1))
    exact = run(source)
    assert 0 < np.abs(run(made.decode) - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("bits", "near"), [(8, 0.03), (4, 0.25)])
def test_weights_alone_stay_as_near_as_their_bits(operator: str, bits, near: float) -> None:
    source = graph(operator)
    made = quantize_weights(source, bits=bits, group=16, symmetric=False, head=True)
    assert (made.quantized, made.left) == (2, 0)
    exact = run(source)
    assert 0 < np.abs(run(made.decode) - exact).max() < near * np.abs(exact).max()


def test_products_compute_in_int8_and_share_scales_by_group() -> None:
    nodes = list(quantize_weights(graph(), bits=4, group=16, symmetric=True, head=True).decode.graph)
    (first, _) = (node for node in nodes if node.op_type == "MatMulNBits")
    found = {name: first.attributes[name].as_int() for name in ("K", "N", "bits", "block_size", "accuracy_level")}
    assert found == {"K": 32, "N": 48, "bits": 4, "block_size": 16, "accuracy_level": 4}


def test_a_reduced_range_uses_seven_bits() -> None:
    made = quantize_dynamic(graph(), reduce_range=True, head=True)
    codes = [
        value.const_value.numpy()
        for value in made.decode.graph.initializers.values()
        if value.const_value.dtype is ir.DataType.INT8 and value.const_value.size > 48
    ]
    assert len(codes) == 2
    assert all(np.abs(each).max() <= 64 for each in codes)


def test_limited_pairs_keep_more_than_seven_bits_and_never_saturate() -> None:
    made = quantize_dynamic(graph(), reduce_range="pairs", head=True)
    found = [weights for _, weights in integer_weights(made.decode)]
    assert len(found) == 2
    assert all(is_limited(weights) for weights in found)
    assert max(int(np.abs(weights).max()) for weights in found) > 64
    exact = run(graph())
    assert 0 < np.abs(run(made.decode) - exact).max() < 0.05 * np.abs(exact).max()


def test_the_graph_is_left_as_it_was_and_so_is_logging() -> None:
    source = graph()
    before, handlers, level = ir.to_proto(source).SerializeToString(), [*logging.root.handlers], logging.root.level
    quantize_weights(source, bits=8, group=32, symmetric=False, head=False)
    quantize_dynamic(source, reduce_range=False, head=False)
    assert ir.to_proto(source).SerializeToString() == before
    assert ([*logging.root.handlers], logging.root.level) == (handlers, level)


def with_three_axes(axes_known: bool = True) -> ir.Model:
    """The same products with weights (1, K, N), for inputs (1, rows, K) or of unknown axes."""
    source = graph()
    for value in source.graph.initializers.values():
        value.const_value = ir.tensor(value.const_value.numpy()[None], name=value.name)
    source.graph.inputs[0].shape = ir.Shape([1, "rows", 32]) if axes_known else None
    source.graph.outputs[0].shape = None
    return source


TOOLS = {
    "products": lambda source: quantize_dynamic(source, reduce_range=True, head=True),
    "weights": lambda source: quantize_weights(source, bits=8, group=16, symmetric=False, head=True),
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
def test_weights_of_three_axes_are_flattened_or_left_in_float(tool) -> None:
    source = with_three_axes()
    made, exact = tool(source), run(source, ROWS[None])
    assert (made.quantized, made.left) == (2, 0)
    moved = run(made.decode, ROWS[None])
    assert moved.shape == exact.shape
    assert 0 < np.abs(moved - exact).max() < 0.05 * np.abs(exact).max()
    unknown = tool(with_three_axes(axes_known=False))
    assert (unknown.quantized, unknown.left) == (0, 2)


def test_products_that_are_quantized_already_are_counted() -> None:
    assert quantized_products(graph()) == ""
    once = quantize_weights(graph(), bits=4, group=16, symmetric=True, head=True).decode
    assert quantized_products(once) == "2 MatMulNBits"
