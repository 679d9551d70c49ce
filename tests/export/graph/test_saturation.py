"""Weights that cannot saturate, against a model of the saturating instruction in NumPy, and graphs that hold others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.saturation import PAIR_LIMIT, is_limited, limited, stretched, unsafe_products


def saturating_product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 (M, K) times int8 (K, N) as processors without VNNI do it: vpmaddubsw adds two products in 16 bits.

    The sum of each pair saturates at the ends of int16, then vpmaddwd and vpaddd add the pairs in 32 bits.
    """
    short = x.shape[1] % 2
    left = np.pad(x.astype(np.int32), ((0, 0), (0, short)))
    right = np.pad(weights.astype(np.int32), ((0, short), (0, 0)))
    pairs = left[:, 0::2, None] * right[None, 0::2] + left[:, 1::2, None] * right[None, 1::2]  # (M, K / 2, N)
    return pairs.clip(-(2**15), 2**15 - 1).sum(axis=1)


def exact_product(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) @ weights.astype(np.int64)


def hardest(weights: np.ndarray) -> np.ndarray:
    """Activations (2N, K) that drive each column's positive, then negative, weights to their ends."""
    return 255 * np.concatenate([weights.T > 0, weights.T < 0]).astype(np.uint8)


def any_weights(inputs: int) -> np.ndarray:
    weights = np.random.default_rng(inputs).integers(-127, 128, size=(inputs, 40)).astype(np.int8)
    weights[:, 0], weights[:, 1], weights[:, 2] = 127, -127, np.resize([127, -127], inputs)
    return weights


@pytest.mark.parametrize("inputs", [1, 2, 7, 64, 255])
def test_limited_weights_never_saturate_whatever_the_activations(inputs) -> None:
    weights = any_weights(inputs)
    if inputs > 1:
        assert (saturating_product(hardest(weights), weights) != exact_product(hardest(weights), weights)).any()
    made = limited(weights.T).T
    assert made.dtype == np.int8
    assert is_limited(made.T)
    np.testing.assert_array_equal(saturating_product(hardest(made), made), exact_product(hardest(made), made))


def test_the_limit_is_the_largest_that_holds() -> None:
    full = np.full((1, 2), 255, dtype=np.uint8)
    for first, second, saturates in (
        (64, 64, False),
        (127, 1, False),
        (65, 64, True),
        (-64, -64, False),
        (-127, -2, True),
    ):
        weights = np.array([[first], [second]], dtype=np.int8)
        assert (saturating_product(full, weights) != exact_product(full, weights)).all() == saturates
        assert is_limited(weights.T) != saturates
    assert PAIR_LIMIT * 255 <= 2**15 - 1 < (PAIR_LIMIT + 1) * 255


def test_both_of_a_pair_give_way_alike_and_the_rest_stays() -> None:
    codes = np.array([[127, 127, 127, 2, -100, -31, 127, -127, 127]], dtype=np.int8)
    assert limited(codes).tolist() == [[64, 64, 126, 2, -98, -30, 127, -127, 127]]
    assert codes[0, 0] == 127  # the input is left as it was
    assert limited(codes.astype(np.float32)).tolist() == limited(codes).astype(float).tolist()


def test_a_scale_grows_where_that_loses_less_than_cutting_pairs() -> None:
    averaging = np.full((1, 1, 8), 127, dtype=np.int8)  # cut, it would be half of itself
    made, factors = stretched(averaging)
    assert made.tolist() == [[[64] * 8]]
    np.testing.assert_allclose(made * factors, averaging, rtol=0.01)
    row = np.random.default_rng(0).integers(-60, 61, size=200).astype(np.int8)
    row[:2] = 127, 3  # over by 2; to round the other 198 again would lose more
    made, factors = stretched(row[None, None])
    assert factors.tolist() == [1.0]
    assert made[0, 0, :2].tolist() == [126, 2]
    np.testing.assert_array_equal(made[0, 0, 2:], row[2:])
    kept = np.array([[[64, 64], [127, -127]]], dtype=np.int8)
    made, factors = stretched(kept)
    assert made.tolist() == kept.tolist()
    assert factors.tolist() == [1.0]


GRAPHS = {
    "MatMulInteger": "g (uint8[2,4] x) => (int32[2,1] y) <int8[4,1] w = {W}> { y = MatMulInteger(x, w) }",
    "MatMul between DequantizeLinear": """g (uint8[2,4] x) => (float[2,1] y) <int8[4,1] w = {W}, float s = {0.1}> {
        a = DequantizeLinear(x, s) b = DequantizeLinear(w, s) y = MatMul(a, b) }""",
    "Conv between DequantizeLinear": """g (uint8[1,4,1,1] x) => (float[1,1,1,1] y)
        <int8[1,4,1,1] w = {W}, float s = {0.1}> {
        a = DequantizeLinear(x, s) b = DequantizeLinear(w, s) y = Conv(a, b) }""",
    "Gemm of transposed weights": """g (uint8[2,4] x) => (float[2,1] y) <int8[1,4] w = {W}, float s = {0.1}> {
        a = DequantizeLinear(x, s) b = DequantizeLinear(w, s) y = Gemm<transB = 1>(a, b) }""",
    "ConvInteger": "g (uint8[1,4,1,1] x) => (int32[1,1,1,1] y) <int8[1,4,1,1] w = {W}> { y = ConvInteger(x, w) }",
}  # fmt: skip


def graph_of(text: str, weights: list[int]) -> ir.Model:
    listed = "{" + ", ".join(map(str, weights)) + "}"
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 21]> {text.replace("{W}", listed)}')


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS.keys())
def test_a_graph_with_products_that_may_saturate_is_told_from_one_without(text) -> None:
    assert len(unsafe_products(graph_of(text, [1, 127, 127, 1]))) == 0
    assert len(unsafe_products(graph_of(text, [127, 1, 100, 29]))) == 1


def test_weights_alone_in_int8_are_no_8_bit_product() -> None:
    text = """g (float[2,4] x) => (float[2,1] y) <int8[4,1] w = {W}, float s = {0.1}> {
        b = DequantizeLinear(w, s) y = MatMul(x, b) }"""
    assert unsafe_products(graph_of(text, [127, 127, 127, 127])) == []
