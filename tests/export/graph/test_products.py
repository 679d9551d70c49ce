"""Products of one input become one product that computes the same, and others say why they do not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.match import Miss
from export.graph.products import Product, pack, split

GENERATOR = np.random.default_rng(0)


def model_of(nodes: str, constants: dict[str, np.ndarray], more: str = "") -> ir.Model:
    """A graph of x (2, 4) that makes a (2, 3) and b (2, 5)."""
    model = ir.from_onnx_text(
        '<ir_version: 11, opset_import: ["" : 23, "com.microsoft" : 1]>'
        f"g (float[2,4] x{more}) => (float[2,3] a, float[2,5] b) {{ {nodes} }}"
    )
    for name, array in constants.items():
        value = next(value for node in model.graph for value in node.inputs if value is not None and value.name == name)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    for index, node in enumerate(model.graph):
        node.name = f"/block/ffn/{node.op_type}_{index}"
    return model


def floats(*shape: int) -> np.ndarray:
    """Random numbers."""
    return GENERATOR.normal(size=shape).astype(np.float32)


def packed(model: ir.Model) -> ir.Model:
    """The model with a and b from one product."""
    graph = model.graph
    values = list(graph.outputs)
    last = list(graph)[-1]
    result, outputs = pack(values, "ab", last, graph)
    assert outputs == [3, 5]
    for old, new in zip(values, split(result, outputs, "ab", last, graph), strict=True):
        name, old.name = old.name, f"{old.name}_before"
        new.name = name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    return model


def run(model: ir.Model, x: np.ndarray) -> list[np.ndarray]:
    """a and b."""
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"]).run(None, {"x": x})


WEIGHTS = {"u": floats(4, 3), "v": floats(4, 5)}
BIASES = {"c": floats(3), "d": floats(5)}
CODES = {
    "u": GENERATOR.integers(-127, 128, (4, 3)).astype(np.int8),
    "v": GENERATOR.integers(-127, 128, (4, 5)).astype(np.int8),
    "us": abs(floats(3)),
    "vs": abs(floats(5)),
}
SCALES = {"s": np.array(0.02, dtype=np.float32), "t": np.array(0.02, dtype=np.float32)}
PLAIN = "a = MatMul(x, u) b = MatMul(x, v)"
BIASED = "p = MatMul(x, u) a = Add(p, c) q = MatMul(x, v) b = Add(q, d)"
RESTORED = (
    "w = DequantizeLinear <axis = 1> (u, us) a = MatMul(x, w) z = DequantizeLinear <axis = 1> (v, vs) b = MatMul(x, z)"
)
ROUNDED = (
    "i = QuantizeLinear <output_dtype = 3> (x, s) j = DequantizeLinear(i, s)"
    "k = QuantizeLinear <output_dtype = 3> (x, t) l = DequantizeLinear(k, t)"
    "w = DequantizeLinear <axis = 1> (u, us) a = MatMul(j, w) z = DequantizeLinear <axis = 1> (v, vs) b = MatMul(l, z)"
)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [(PLAIN, WEIGHTS), (BIASED, WEIGHTS | BIASES), (RESTORED, CODES), (ROUNDED, CODES | SCALES)],
    ids=["float", "bias", "dequantized", "rounded input"],
)
def test_two_products_become_one_that_computes_the_same(nodes, constants) -> None:
    x = floats(2, 4)
    expected = run(model_of(nodes, constants), x)
    for found, wanted in zip(run(packed(model_of(nodes, constants)), x), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_the_packed_product_is_named_beside_its_parts_and_knows_its_shape() -> None:
    model = model_of(PLAIN, WEIGHTS)
    result, _ = pack(list(model.graph.outputs), "ab", model.graph[0], model.graph)
    assert (result.name, list(result.shape)) == ("/block/ab/MatMul_output", [2, 8])
    assert model.graph.initializers["block.ab.weight"].const_value.shape == [4, 8]


def test_a_product_knows_its_outputs_bias_and_rounding() -> None:
    plain = Product.behind(model_of(PLAIN, WEIGHTS).graph.outputs[1])
    assert (plain.outputs, plain.bias, plain.weights, plain.rounding, plain.packs) == (5, None, None, None, False)
    biased = Product.behind(model_of(BIASED, WEIGHTS | BIASES).graph.outputs[0])
    assert (biased.outputs, biased.bias.name) == (3, "c")
    rounded = Product.behind(model_of(ROUNDED, CODES | SCALES).graph.outputs[0])
    assert (rounded.outputs, rounded.weights.name, rounded.rounding.name) == (
        3, "/block/ffn/DequantizeLinear_4", "/block/ffn/QuantizeLinear_0",
    )  # fmt: skip


HALF = "w = DequantizeLinear <axis = 1> (u, us) a = MatMul(x, w) b = MatMul(x, v)"
ONE_BIAS = "p = MatMul(x, u) a = Add(p, c) b = MatMul(x, v)"
OTHER_INPUT = "y = Neg(x) a = MatMul(x, u) b = MatMul(y, v)"
COMPUTED = "w = Neg(u) a = MatMul(x, w) b = MatMul(x, v)"
NO_PRODUCT = "p = MatMul(x, u) a = Relu(p) b = MatMul(x, v)"
OTHER_TYPE = {**CODES, "v": CODES["v"].view(np.uint8)}
OTHER_SCALE = {**CODES, **SCALES, "t": np.array(0.03, dtype=np.float32)}


@pytest.mark.parametrize(
    ("nodes", "constants", "text"),
    [
        (HALF, {**CODES, "v": WEIGHTS["v"]}, "stopped at /block/ffn/MatMul_2: only one of the two is quantized"),
        (ONE_BIAS, WEIGHTS | BIASES, "stopped at /block/ffn/MatMul_2: only one of the two has a bias"),
        (OTHER_INPUT, WEIGHTS, "stopped at /block/ffn/MatMul_2: it does not read what /block/ffn/MatMul_1 reads"),
        (COMPUTED, WEIGHTS, "stopped at /block/ffn/Neg_0: its weights are not constant"),
        (NO_PRODUCT, WEIGHTS, "stopped at /block/ffn/Relu_1: Relu is not Add or MatMul or MatMulNBits"),
        (RESTORED, OTHER_TYPE, "stopped at /block/ffn/MatMul_3: its number format is not that of /block/ffn/MatMul_1"),
        (
            ROUNDED,
            OTHER_SCALE,
            "stopped at /block/ffn/QuantizeLinear_2: its scale is not that of /block/ffn/QuantizeLinear_0",
        ),
    ],
)
def test_products_that_differ_say_in_what(nodes, constants, text) -> None:
    used = {name: array for name, array in constants.items() if any(mark in nodes for mark in (f"{name},", f"{name})"))}
    model = model_of(nodes, used)
    with pytest.raises(Miss) as miss:
        pack(list(model.graph.outputs), "ab", model.graph[0], model.graph)
    assert str(miss.value) == text


def test_weights_that_are_fed_are_not_packed() -> None:
    model = model_of(PLAIN, {"v": WEIGHTS["v"]}, more=", float[4,3] u")
    with pytest.raises(Miss, match=r"^u is not constant$"):
        pack(list(model.graph.outputs), "ab", model.graph[0], model.graph)


def test_an_added_matrix_is_no_bias() -> None:
    model = model_of(BIASED, WEIGHTS | {"c": floats(2, 3), "d": floats(2, 5)})
    with pytest.raises(Miss, match=r"^stopped at /block/ffn/Add_1: it does not add a bias$"):
        pack(list(model.graph.outputs), "ab", model.graph[0], model.graph)
