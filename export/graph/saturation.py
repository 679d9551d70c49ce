"""int8 weights whose products cannot saturate on x86 processors without VNNI, and graphs that hold others.

Letters: K inputs of a product, N outputs.

With AVX2 or AVX512BW and without VNNI, ONNX Runtime multiplies unsigned 8-bit activations with signed 8-bit weights by
``vpmaddubsw``: the products of inputs 2j and 2j + 1 are added in 16 bits, and the sum saturates. Activations reach 255,
so the sum of two neighbouring weights must stay within 32767 / 255 = 128.5. (The other end, -32768 / 255, is as wide.)
Weights of opposite signs never add up to more. Which inputs are neighbours follows from MLAS, the runtime's library of
kernels: its packed panels hold the inputs in order, a convolution's channels innermost. The tests try it on AVX2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.match import Miss, constant, integer, made_by

ReduceRange = Literal["pairs", True, False]

PAIR_LIMIT = 128  # of the sum of two neighbouring weights, either sign
# Scales are tried in these steps where weights have to give way: at the last, nothing is beyond the limit.
STRETCHES = np.linspace(1, 127 / (PAIR_LIMIT // 2), 33)
CODES_TOGETHER = 2**20  # weights that are looked at together, which bounds the memory of a search

INTEGER_PRODUCTS = {"MatMulInteger": 1, "DynamicQuantizeMatMul": 1, "MatMulIntegerToFloat": 1, "QAttention": 1,
                    "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "QLinearConv": 3}  # fmt: skip
FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv")


def limited(codes: NDArray[Any]) -> NDArray[Any]:
    """Weight codes (..., K) of -127..127 with each pair of neighbours (2j, 2j + 1) within PAIR_LIMIT.

    Both of a pair give way alike, which is the nearest such pair in least squares.
    """
    made = codes.copy()
    even = made[..., : codes.shape[-1] // 2 * 2]
    first, second = even[..., 0::2], even[..., 1::2]
    total = first.astype(np.int16 if codes.dtype == np.int8 else codes.dtype) + second
    over = np.maximum(np.abs(total) - PAIR_LIMIT, 0)
    if over.any():
        half = over // 2
        first -= (np.sign(total) * (over - half)).astype(codes.dtype)
        second -= (np.sign(total) * half).astype(codes.dtype)
    return made


def is_limited(codes: NDArray[np.int8]) -> bool:
    """Whether no pair of neighbours in (..., K) can saturate."""
    even = codes[..., : codes.shape[-1] // 2 * 2].astype(np.int16)
    return not even.size or int(np.abs(even[..., 0::2] + even[..., 1::2]).max()) <= PAIR_LIMIT


def stretched(codes: NDArray[np.int8]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes (S, N, K) that cannot saturate, and by how much each of the scales (S,) grows.

    Of STRETCHES each scale takes that with the least squared error; where nothing can saturate that is 1.
    """
    made, factors = codes.copy(), np.ones(len(codes), dtype=np.float32)
    together = max(1, CODES_TOGETHER // max(1, codes[0].size))
    for start in range(0, len(codes), together):
        exact = codes[start : start + together].astype(np.float32)
        least = np.full(len(exact), np.inf, dtype=np.float32)
        for factor in STRETCHES.astype(np.float32):
            tried = limited(np.rint(exact / factor))
            error = np.square(tried * factor - exact).sum(axis=(1, 2))
            better = error < least
            least = np.where(better, error, least)
            made[start : start + together][better] = tried[better].astype(np.int8)
            factors[start : start + together][better] = factor
    return made, factors


def unsafe_products(model: ir.Model) -> list[str]:
    """The names of the products whose int8 weights may saturate, subgraphs included."""
    return [node.name or node.op_type for node, weights in integer_weights(model) if not is_limited(weights)]


def integer_weights(model: ir.Model) -> Iterator[tuple[ir.Node, NDArray[np.int8]]]:
    """Each product that runs in 8 bits, with its constant int8 weights as rows (N, K) in the order of summation.

    That is a product of ONNX Runtime's integer operators, or one between DequantizeLinear nodes, which it fuses.
    """
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        try:
            weights = codes_of(node)
        except Miss:
            continue
        if weights.dtype == np.int8 and weights.ndim > 1:
            yield node, in_rows(node, weights)


def codes_of(node: ir.Node) -> NDArray[Any]:
    """The constant integer weights of a product as they are stored.

    Raises:
        Miss: the node is no such product.
    """
    if node.op_type in INTEGER_PRODUCTS:
        return constant(node.inputs[INTEGER_PRODUCTS[node.op_type]])
    if node.op_type not in FLOAT_PRODUCTS:
        raise Miss(f"{node.op_type} is no product")
    made_by(node.inputs[0], "DequantizeLinear")
    return constant(made_by(node.inputs[1], "DequantizeLinear").inputs[0])


def in_rows(node: ir.Node, weights: NDArray[Any]) -> NDArray[Any]:
    """Weights as rows (N, K): of a convolution the channels lie innermost, as ONNX Runtime sums them."""
    if "Conv" in node.op_type:
        return np.moveaxis(weights, 1, -1).reshape(len(weights), -1)
    if node.op_type in ("Gemm", "QGemm") and integer(node, "transB"):
        return weights
    return np.swapaxes(weights, -1, -2)


def from_rows(node: ir.Node, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Rows (N, K) of a product as weights of this shape: the inverse of `in_rows`."""
    if "Conv" in node.op_type:
        return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
    return in_rows(node, rows.reshape(in_rows(node, np.empty(shape, dtype=rows.dtype)).shape))
