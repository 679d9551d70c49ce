"""Quantization by ONNX Runtime's own tools: dynamic int8 products, weights alone in int8 or int4, or a whole decoder.

Letters: N pictures, T tokens of a picture.

The only file besides the engine's that imports ONNX Runtime; it works on graphs, and is no part of the runtime.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Builder, constant, drop_unused_initializers
from export.graph.graph_file import load_graph
from export.graph.inference import without_weights
from export.graph.match import made_by
from export.graph.quiet import quiet
from export.graph.rounding import INT8_ARITHMETIC
from export.graph.saturation import ReduceRange, from_rows, integer_weights, is_limited, stretched
from export.graph.weights import with_weights_inside

PRODUCTS = ("MatMul", "Gemm")
QUANTIZED = (
    *("DynamicQuantizeMatMul", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"),
    "QLinearMatMul",
)

RangeMethod = Literal["minmax", "percentile", "entropy"]


@dataclass(frozen=True)
class Quantized:
    """The quantized graph, and how many products were quantized and how many are left in float."""

    decode: ir.Model
    quantized: int
    left: int


def quantize_dynamic(decode: ir.Model, *, reduce_range: ReduceRange, head: bool) -> Quantized:
    """int8 weights with a scale for each output channel, signed; inputs are scaled as they come, one scale a call."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize_dynamic as tool

    source = prepared(decode)
    with tempfile.TemporaryDirectory() as name, calm():
        path = Path(name) / "decode.onnx"
        tool(
            ir.to_proto(source),
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=reduce_range is True,
            weight_type=QuantType.QInt8,  # unsigned weights were measured 2.5 times slower at 16 rows
            nodes_to_exclude=excluded(source, head),
            # What comes out of operators of other domains (fused ones) has no inferred type; here all of it is fp32.
            extra_options={"DefaultTensorType": int(ir.DataType.FLOAT)},
        )
        made = load_graph(path)
    if reduce_range == "pairs":
        limit_pairs(made)
    return counted(decode, made, "MatMulInteger")


def quantize_weights(decode: ir.Model, *, bits: Literal[4, 8], group: int, symmetric: bool, head: bool) -> Quantized:
    """Weights alone, rounded to nearest with a scale for each `group` of inputs of an output channel (MatMulNBits)."""
    with calm():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        source = prepared(decode)
        tool = MatMulNBitsQuantizer(
            ir.to_proto(source),
            bits=bits,
            block_size=group,
            is_symmetric=symmetric,
            accuracy_level=INT8_ARITHMETIC,  # in fp32, the default, 8 bits were measured 30 to 40 times slower
            nodes_to_exclude=excluded(source, head),
        )
        tool.process()
        made = ir.from_proto(tool.model.model)
    return counted(decode, made, "MatMulNBits")


class Pictures:
    """Tokens (N, T) as the calibration asks for them: one picture at a time, so that one's activations are alive."""

    def __init__(self, tokens: NDArray[np.int64]) -> None:
        self.tokens = tokens
        self.next, self.stop = 0, len(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these pictures."""
        self.next, self.stop = start_index, end_index

    def get_next(self) -> dict[str, NDArray[np.int64]] | None:
        """The inputs of the next picture."""
        if self.next >= self.stop:
            return None
        self.next += 1
        return {"tokens": self.tokens[self.next - 1 : self.next]}


def quantize_decoder(
    decoder: ir.Model,
    tokens: NDArray[np.int64],
    *,
    operators: Sequence[str],
    left: Sequence[str],
    ranges: RangeMethod,
    percentile: float,
    reduce_range: ReduceRange,
) -> ir.Model:
    """An image decoder with Q/DQ around its nodes of these operators, except for those `left` by name.

    Weights are int8 with a scale for each output channel, inputs and outputs uint8 with a scale and a zero point from
    the decoding of these tokens (N, T). That is what ONNX Runtime computes in int8 on CPU. `reduce_range` keeps it from
    saturating: True by 7-bit weights, ``pairs`` by limiting the sums of neighbouring ones.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as name, calm(), contextlib.redirect_stdout(io.StringIO()):
        path = Path(name) / "decoder.onnx"
        quantize_static(
            ir.to_proto(with_weights_inside(decoder)),
            path,
            Pictures(tokens),
            op_types_to_quantize=list(operators),
            nodes_to_exclude=list(left),
            per_channel=True,
            reduce_range=reduce_range is True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
                "entropy": CalibrationMethod.Entropy,
            }[ranges],
            extra_options={
                "CalibStridedMinMax": 1,  # of every method: a picture's activations are reduced before the next one's
                **({"CalibPercentile": percentile} if ranges == "percentile" else {}),
            },
        )
        made = load_graph(path)
    if reduce_range == "pairs":
        limit_pairs(made)
    return made


def limit_pairs(model: ir.Model) -> None:
    """Keep the int8 weights that the tools wrote from saturating, with coarser scales where that loses less.

    A bias counts in units of the scales of weights and inputs, so it is rounded again where these change.
    """
    for node, rows in list(integer_weights(model)):  # rows (N, K)
        if is_limited(rows):
            continue
        weight, scale = codes_and_scale(node, model.graph)
        each = rows[:, None] if constant(scale).size == len(rows) else rows[None]
        made, factors = stretched(each)
        stretch = factors.reshape(constant(scale).shape)
        replace_constant(weight, from_rows(node, made.reshape(rows.shape), constant(weight).shape))
        replace_constant(scale, constant(scale) * stretch)
        if node.op_type != "MatMulInteger" and len(node.inputs) > 2 and node.inputs[2] is not None:
            bias, bias_scale, *_ = made_by(node.inputs[2], "DequantizeLinear").inputs
            assert bias is not None
            assert bias_scale is not None
            replace_constant(bias, np.rint(constant(bias) / stretch).astype(np.int32))
            replace_constant(bias_scale, constant(bias_scale) * stretch)


def codes_and_scale(node: ir.Node, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """The constants of a product that the tools wrote: codes, and a scale for each output channel or for all."""
    if node.op_type != "MatMulInteger":
        weight, scale, *_ = made_by(node.inputs[1], "DequantizeLinear").inputs
        assert weight is not None
        assert scale is not None
        return weight, scale
    weight = node.inputs[1]
    assert weight is not None
    assert weight.name is not None
    return weight, graph.initializers[weight.name.removesuffix("_quantized") + "_scale"]


def replace_constant(value: ir.Value, array: NDArray[Any]) -> None:
    """Other numbers behind an initializer, of the same shape and type."""
    value.const_value = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=value.name)


def prepared(decode: ir.Model) -> ir.Model:
    """A copy whose Gemm nodes are MatMul and Add, and whose nodes all have names: what the tools look for."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    source = with_weights_inside(decode)
    if any(node.op_type == "Gemm" for node in source.graph):
        proto = ONNXModel(ir.to_proto(source))
        proto.replace_gemm_with_matmul()
        source = ir.from_proto(proto.model)
    for index, node in enumerate(source.graph):
        node.name = node.name or f"/{node.op_type}_{index}"
    flatten(source)
    return source


def flatten(source: ir.Model) -> None:
    """Make constant weights (1, K, N) into (K, N) where the product's input has as many axes: nothing changes."""
    odd = [node for node in source.graph if node.op_type in PRODUCTS and not is_matrix(node.inputs[1])]
    axes = axes_of(source) if odd else {}
    builder = Builder(source.graph, None, "flat")
    for node in odd:
        weights = constant(node.inputs[1])
        extra, left = weights.ndim - 2, node.inputs[0]
        known = axes.get(left.name or "", 0) if left is not None else 0
        if extra > 0 and known >= weights.ndim and weights.shape[:extra] == (1,) * extra:
            name = node.inputs[1].name if node.inputs[1] is not None else node.name
            node.replace_input_with(1, builder.initializer(name or "", weights.reshape(weights.shape[extra:])))


def axes_of(source: ir.Model) -> dict[str, int]:
    """How many axes each value has, as far as ONNX infers it."""
    typed = onnx.shape_inference.infer_shapes(ir.to_proto(without_weights(source)))
    values = [*typed.graph.value_info, *typed.graph.input]
    return {
        each.name: len(each.type.tensor_type.shape.dim) for each in values if each.type.tensor_type.HasField("shape")
    }


def excluded(source: ir.Model, head: bool) -> list[str]:
    """Names of the products that stay in float: weights that are no matrix, and the head unless it is asked for."""
    odd = [node.name or "" for node in source.graph if node.op_type in PRODUCTS and not is_matrix(node.inputs[1])]
    return odd if head else [*odd, *head_of(source)]


def is_matrix(weights: ir.Value | None) -> bool:
    """Whether constant weights have two axes; ONNX Runtime's tools write graphs that it refuses of others."""
    return weights is None or weights.const_value is None or len(weights.const_value.shape) == 2


def quantized_products(decode: ir.Model) -> str:
    """The kinds of quantized products in a graph, and how many there are; empty if there are none."""
    kinds = Counter(node.op_type for node in decode.graph.all_nodes() if node.op_type in QUANTIZED)
    for node in decode.graph.all_nodes():
        made = node.inputs[1].producer() if node.op_type in PRODUCTS and node.inputs[1] is not None else None
        if made is not None and made.op_type == "DequantizeLinear":
            kinds[f"{node.op_type} of quantized weights"] += 1
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def head_of(source: ir.Model) -> list[str]:
    """The name of the product that makes the logits."""
    value: Any = next((each for each in source.graph.outputs if each.name == "logits"), None)
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in PRODUCTS:
            return [node.name or ""]
        value = node.inputs[0] if node.inputs else None
    return []


def counted(before: ir.Model, made: ir.Model, operator: str) -> Quantized:
    """The graph with how many products became `operator`, and how many with constant weights did not."""
    drop_unused_initializers(made.graph)
    made.graph.name, made.producer_name = before.graph.name, before.producer_name
    made.producer_version = made.doc_string = made.graph.doc_string = None
    left = sum(node.op_type in PRODUCTS and constant_weights(node) for node in made.graph)
    new, old = (sum(node.op_type == operator for node in model.graph) for model in (made, before))
    return Quantized(made, new - old, left)


def constant_weights(node: ir.Node) -> bool:
    """Whether a product's right side is a constant."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    return weight is not None and weight.const_value is not None


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Undo what the tools do to logging on import (they configure the root logger), and keep them quiet."""
    handlers, level = list(logging.root.handlers), logging.root.level
    try:
        with quiet():
            yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
