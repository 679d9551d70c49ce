"""TensorRT's rules for QuantizeLinear and DequantizeLinear: symmetric, with explicit types.

Sources: the importer of Q/DQ in onnx-tensorrt (QuantDequantLinearHelper) and NVIDIA's page "Working with Quantized
Types" of TensorRT 11; the tests build a graph that breaks each rule. Each rule takes one node and yields sentences;
types and shapes must be inferred before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import DataType

from export.targets.tensorrt_rules import QUANTIZED, Rule, attribute, type_name, value_at

OPERATORS = ("QuantizeLinear", "DequantizeLinear")


def findings(model: ir.Model) -> Iterator[str]:
    """Everything that these rules find in a typed model."""
    for node in model.graph.all_nodes():
        if node.op_type in OPERATORS:
            yield from (f"{node.name}: {text}" for rule in RULES for text in rule(node))


def scale_positive(node: ir.Node) -> Iterator[str]:
    """Scales are positive and finite."""
    scale = value_at(node, 1)
    values = array(scale)
    if scale is not None and values is not None and not (np.isfinite(values).all() and (values > 0).all()):
        yield f"the scale {scale.name} is not positive everywhere (smallest {values.min():g}); TensorRT refuses it"


def zero_point(node: ir.Node) -> Iterator[str]:
    """A zero point is given, is zero, and has the quantized type; without one TensorRT assumes int8."""
    zero = value_at(node, 2)
    if zero is None:
        # It builds, as int8: other numbers where ONNX means uint8.
        yield f"{node.op_type} has no zero point, which TensorRT reads as int8; give zeros of the quantized type"
        return
    values = array(zero)
    if zero.dtype not in QUANTIZED:
        yield f"the zero point {zero.name} is {type_name(zero)}; TensorRT quantizes to INT8, INT4 or FLOAT8E4M3FN"
    if values is None:
        yield f"the zero point {zero.name} is computed; make it an initializer"
    elif values.any():
        yield f"the zero point {zero.name} is not zero everywhere; TensorRT quantizes symmetrically"


def zero_point_shape(node: ir.Node) -> Iterator[str]:
    """There are as many zero points as scales."""
    scales, zeros = array(value_at(node, 1)), array(value_at(node, 2))
    if scales is not None and zeros is not None and scales.size != zeros.size:
        yield f"{node.op_type} has {scales.size} scales and {zeros.size} zero points; it needs as many"


def axis_length(node: ir.Node) -> Iterator[str]:
    """A scale for each channel: as many as the dimension has entries."""
    data, scales = value_at(node, 0), array(value_at(node, 1))
    if data is None or data.shape is None or scales is None or scales.size == 1 or scales.ndim != 1:
        return
    axis = int(attribute(node, "axis", 1))
    if not -len(data.shape) <= axis < len(data.shape):
        yield f"axis {axis} of {node.op_type} is none of the {len(data.shape)} dimensions of {data.name}"
    elif data.shape[axis] != scales.size:
        entries = data.shape[axis]
        yield f"{node.op_type} has {scales.size} scales along axis {axis} of {data.name}, which has {entries} entries"


def block(node: ir.Node) -> Iterator[str]:
    """Weights are cut into blocks along one dimension that the blocks divide."""
    data, scales = value_at(node, 0), array(value_at(node, 1))
    size = int(attribute(node, "block_size", 0))
    blocked = size or (scales is not None and scales.size > 1 and scales.ndim > 1)
    if data is None or not blocked or scales is None or data.shape is None:
        return
    axis = int(attribute(node, "axis", 1)) % len(data.shape)
    expected = list(data.shape.numpy()) if data.shape.is_static() else []
    divides = bool(size and expected) and not expected[axis] % size
    if divides:
        expected[axis] //= size
    if not divides or list(scales.shape) != expected:
        yield (
            f"scales {list(scales.shape)} of {data.name} {list(data.shape)} are not blocks of {size} along "
            f"axis {axis}; the block must divide the dimension, and the other dimensions must agree"
        )


def even_int4(node: ir.Node) -> Iterator[str]:
    """int4 values are packed in pairs."""
    data = value_at(node, 0)
    if data is None or data.dtype != DataType.INT4 or data.shape is None or not data.shape.is_static():
        return
    if int(np.prod(data.shape.numpy())) % 2:
        yield f"{data.name} has an odd number of INT4 values ({list(data.shape.numpy())}); TensorRT packs them in pairs"


RULES: tuple[Rule, ...] = (
    scale_positive,
    zero_point,
    zero_point_shape,
    axis_length,
    block,
    even_int4,
)


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a constant, None where it is none or computed; low-precision types become float32."""
    if value is None or value.const_value is None:
        return None
    numbers = value.const_value.numpy()
    return numbers if numbers.dtype.kind in "fiub" and numbers.dtype.isbuiltin == 1 else numbers.astype(np.float32)
