"""TensorRT's rules for QuantizeLinear and DequantizeLinear: symmetric, with constant scales and explicit types.

Sources: the importer of Q/DQ in onnx-tensorrt (QuantDequantLinearHelper) and NVIDIA's page "Working with Quantized
Types" of TensorRT 11. Each rule takes one node and yields sentences; types and shapes must be inferred before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import DataType

from export.targets.tensorrt_rules import FLOATS, QUANTIZED, Rule, attribute, type_name, value_at

OPERATORS = ("QuantizeLinear", "DequantizeLinear")


def findings(model: ir.Model) -> Iterator[str]:
    """Everything that these rules find in a typed model."""
    for node in model.graph.all_nodes():
        if node.op_type not in OPERATORS:
            continue
        for rule in RULES:
            for text in rule(node):
                yield f"{node.name}: {text}"


def scale_type(node: ir.Node) -> Iterator[str]:
    """Scales are of a float type, that of the input where it is quantized; what is dequantized gets their type."""
    scale, given = value_at(node, 1), value_at(node, 0)
    if scale is None or given is None:
        return
    if scale.dtype not in FLOATS:
        yield f"the scale {scale.name} is {type_name(scale)}; it must be a float"
    elif node.op_type == "QuantizeLinear" and scale.dtype != given.dtype:
        yield f"the scale {scale.name} is {type_name(scale)} and what it scales {type_name(given)}; they must be equal"


def scale_constant(node: ir.Node) -> Iterator[str]:
    """Scales are constants."""
    scale = value_at(node, 1)
    if scale is None or array(scale) is None:
        yield f"the scale of {node.op_type} is computed; make it an initializer"


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


def output_type(node: ir.Node) -> Iterator[str]:
    """DequantizeLinear never has a zero point and output_dtype: the parser compares the two."""
    if node.op_type == "DequantizeLinear" and value_at(node, 2) is not None and attribute(node, "output_dtype", 0):
        yield "DequantizeLinear has a zero point and output_dtype, which the parser compares; drop output_dtype"


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
    """Only int4 weights are cut into blocks, along one dimension that the blocks divide."""
    data, scales = value_at(node, 0), array(value_at(node, 1))
    size = int(attribute(node, "block_size", 0))
    blocked = size or (scales is not None and scales.size > 1 and scales.ndim > 1)
    if data is None or not blocked:
        return
    if data.dtype != DataType.INT4:
        yield f"{node.op_type} cuts {type_name(data)} {data.name} into blocks; TensorRT has them for INT4: use group 0"
        return
    if scales is None or data.shape is None:
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


def activation_scale(node: ir.Node) -> Iterator[str]:
    """Activations have one scale; a scale for each channel is for weights."""
    data, scales = value_at(node, 0), array(value_at(node, 1))
    if scales is None or scales.size == 1 or data is None or data.const_value is not None:
        return
    yield f"{node.op_type} of the activation {data.name} has {scales.size} scales; TensorRT takes one"


RULES: tuple[Rule, ...] = (
    scale_type,
    scale_constant,
    scale_positive,
    zero_point,
    zero_point_shape,
    output_type,
    axis_length,
    block,
    even_int4,
    activation_scale,
)


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a constant, None where it is none or computed; low-precision types become float32."""
    if value is None or value.const_value is None:
        return None
    numbers = value.const_value.numpy()
    return numbers if numbers.dtype.kind in "fiub" and numbers.dtype.isbuiltin == 1 else numbers.astype(np.float32)
