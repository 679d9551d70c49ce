"""Lower each quantized layer of a source graph to what a target computes fastest, or at all.

The source graph holds one node per quantized layer:

    y = compress::QuantizedLinear(x, weight, weight_scale[, weight_zero][, activation_scale])

Letters: K inputs, N outputs, G groups. x (..., K) float32; weight (N, K) int8 (codes of fewer bits too) or
float8e4m3fn; weight_scale (N, G) float32; weight_zero (N, G) int8 where weights are not symmetric; activation_scale ()
float32 where activations are static. A target says by its `lowered` which of the forms here a layer takes:

| weights | activations | onnxruntime | standard | tensorrt |
|---|---|---|---|---|
| int8, int4 | int8 dynamic | MatMulNBits, accuracy level 4 | blocks in ordinary operators, DQ + MatMul | refused |
| int4 | none | MatMulNBits, fp32 arithmetic | DQ + MatMul | DQ + MatMul, always in groups |
| int2 | int8 dynamic, none | MatMulNBits | refused | refused |
| int8 | none | DQ + MatMul (the runtime dequantizes at load) | DQ + MatMul | DQ + MatMul |
| int8, fp8 | the same, static | Q/DQ + MatMul | Q/DQ + MatMul | Q/DQ + MatMul |
| fp8 | none | DQ + MatMul | DQ + MatMul | DQ + MatMul |

Weights that are not symmetric take the same forms, with their zero points; TensorRT refuses them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import MICROSOFT, Builder, constant, drop_unused_initializers
from export.graph.number_formats import FORMATS
from export.graph.rounding import FLOAT_ARITHMETIC, INT8_ARITHMETIC

DOMAIN, OP = "compress", "QuantizedLinear"
DEFAULT_BLOCK = 128  # inputs that share a dynamic scale where the weights have no groups
GROUPS = (128, 64, 32, 16)  # inputs that share a scale, of which TensorRT fuses the unpacking with the product
INT8_OPSET_GROUPS = 21  # the first with block_size and with INT4


class LoweringError(ValueError):
    """A quantized layer has no form on a target; the message names the layer and what would be right."""


@dataclass(frozen=True)
class QuantizedLayer:
    """One quantized layer as its node says it."""

    name: str
    weights: str
    activations: str
    dynamic: bool
    group: int
    weight: NDArray[Any]  # (N, K)
    scale: NDArray[np.float32]  # (N, G)
    zero: NDArray[np.int8] | None  # (N, G); of symmetric weights None
    activation_scale: ir.Value | None

    @classmethod
    def of(cls, node: ir.Node) -> QuantizedLayer:
        """Read a node."""
        scale_value = node.inputs[2]
        weight, scale = constant(node.inputs[1]), constant(scale_value)
        attributes = node.attributes
        zero, *rest = [None, *node.inputs[3:]] if attributes["symmetric"].as_int() else node.inputs[3:]
        return cls(
            name=(node.inputs[1].name or "").removesuffix(".weight"),  # type: ignore[union-attr]
            weights=attributes["weights"].as_string(),
            activations=attributes["activations"].as_string(),
            dynamic=bool(attributes["dynamic"].as_int()),
            group=attributes["group"].as_int(),
            weight=weight,
            scale=scale,
            zero=None if zero is None else constant(zero),
            activation_scale=rest[0] if rest else None,
        )

    @property
    def block(self) -> int:
        """Inputs that share a dynamic activation scale."""
        return self.group or DEFAULT_BLOCK


def lower(model: ir.Model, lowered: Callable[[Builder, QuantizedLayer, ir.Value], ir.Value]) -> None:
    """Replace every quantized layer in place by what `lowered`, a target's method, computes of the layer's input.

    Raises:
        LoweringError: the target has no form for a layer.
    """
    graph = model.graph
    for node in list(graph):
        if node.domain != DOMAIN or node.op_type != OP:
            continue
        layer = QuantizedLayer.of(node)
        x = node.inputs[0]
        assert x is not None
        y = lowered(Builder(graph, node, layer.name), layer, x)
        output = node.outputs[0]
        y.name, y.shape, y.type = output.name, output.shape, output.type
        ir.convenience.replace_all_uses_with(output, y, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)
    model.opset_imports.pop(DOMAIN, None)


def quantized_input(builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
    """x as the product sees it: rounded with a calibrated scale, with scales of its own, or not at all."""
    if layer.activations == "none":
        return x
    if layer.dynamic:
        return blockwise(builder, layer.block, layer.weight.shape[1], x)
    kind = FORMATS[layer.activations].kind
    scale = builder.initializer("activation_scale", constant(layer.activation_scale).astype(np.float32).reshape(()))
    zero = builder.initializer("activation_zero_point", np.zeros((), dtype=kind))
    rounded = builder.add("QuantizeLinear", [x, scale, zero])
    return builder.add("DequantizeLinear", [rounded, scale, zero], "DequantizeInput")


def blockwise(builder: Builder, block: int, inputs: int, x: ir.Value) -> ir.Value:
    """Dynamic int8 rounding of each token and block of inputs, in ordinary operators: what MatMulNBits does inside."""
    short = -inputs % block
    if short:
        pads = builder.initializer("pads", np.array([0, 0, 0, 0, 0, short], dtype=np.int64))
        x = builder.add("Pad", [x, pads])
    blocks = builder.add(
        "Reshape", [x, builder.initializer("blocks", np.array([0, 0, -1, block], dtype=np.int64))], "Blocks"
    )
    axes = builder.initializer("block_axis", np.array([-1], dtype=np.int64))
    largest = builder.add("ReduceMax", [builder.add("Abs", [blocks]), axes], keepdims=1)
    # An all-zero block has nothing to round; 127 / tiny only must be finite.
    tiny = builder.initializer("tiny", np.array(127 * np.finfo(np.float32).tiny, dtype=np.float32))
    top = builder.initializer("int8_largest", np.array(127, dtype=np.float32))
    safe = builder.add("Max", [largest, tiny])
    rounded = builder.add("Round", [builder.add("Mul", [blocks, builder.add("Div", [top, safe], "Inverse")], "Scaled")])
    restored = builder.add("Mul", [rounded, builder.add("Div", [largest, top], "Scale")], "Restored")
    flat = builder.initializer("flat", np.array([0, 0, -1], dtype=np.int64))
    result = builder.add("Reshape", [restored, flat], "Flat")
    if short:
        ends = [builder.initializer(f"slice_{name}", np.array([number], dtype=np.int64))
                for name, number in (("start", 0), ("end", inputs), ("axis", 2))]  # fmt: skip
        result = builder.add("Slice", [result, *ends])
    return result


def dequantized_product(builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
    """MatMul with DequantizeLinear of the weights (K, N), as every target reads it.

    Raises:
        LoweringError: standard ONNX has no such weights.
    """
    kind = FORMATS[layer.weights].kind
    if kind is None:
        raise LoweringError(f"{layer.name}: only onnxruntime has kernels for {layer.weights} weights; use int4")
    zero = np.zeros(layer.scale.shape, np.int8) if layer.zero is None else layer.zero

    def across(each: NDArray[Any]) -> NDArray[Any]:
        return each.T if layer.group else each[:, 0]  # (G, N) or (N,)

    scale = across(layer.scale)
    restored, *_ = builder.node(
        "DequantizeLinear",
        [
            builder.initializer("weight", layer.weight.T.astype(kind)),  # (K, N)
            builder.initializer("weight_scale", scale.astype(np.float32)),
            builder.initializer("weight_zero_point", across(zero).astype(kind)),
        ],
        "DequantizeWeight",
        attributes={"axis": 0, "block_size": layer.group} if layer.group else {"axis": 1},
    )
    return builder.add("MatMul", [x, restored])


def in_groups(layer: QuantizedLayer) -> QuantizedLayer:
    """The same layer with the scale of each output repeated for groups of inputs, which changes no number.

    The groups are the largest of `GROUPS` that divide the inputs and are more than one; else the layer stays as it is.
    """
    inputs = layer.weight.shape[1]
    group = next((each for each in GROUPS if inputs % each == 0 and inputs > each), 0)
    if layer.group or not group:
        return layer
    return replace(layer, group=group, scale=np.repeat(layer.scale, inputs // group, axis=1))


def n_bits(builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
    """com.microsoft MatMulNBits: weights packed by blocks of inputs, with a scale each.

    Codes are counted from the smallest one, so the zero point of symmetric weights is the middle, its default.
    """
    outputs, inputs = layer.weight.shape
    bits, block = FORMATS[layer.weights].bits, layer.block
    blocks = -(-inputs // block)
    repeats = 1 if layer.group else blocks
    constants = [
        builder.initializer("weight", packed(layer.weight, bits, blocks * block).reshape(outputs, blocks, -1)),
        builder.initializer("weight_scale", np.repeat(layer.scale.astype(np.float32), repeats, axis=1)),
    ]
    if layer.zero is not None:
        zero = np.repeat(layer.zero, repeats, axis=1)  # (N, blocks)
        constants.append(builder.initializer("weight_zero_point", packed(zero, bits, blocks)))
    return builder.add(
        "MatMulNBits",
        [x, *constants],
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=bits,
        block_size=block,
        accuracy_level=INT8_ARITHMETIC if layer.dynamic else FLOAT_ARITHMETIC,
    )


def packed(codes: NDArray[np.int8], bits: int, length: int) -> NDArray[np.uint8]:
    """Codes (N, K) as bytes (N, bits * `length` / 8, rounded up), the first in the lowest bits.

    They are counted from the smallest code; rows are filled up to `length` and to whole bytes with the middle, whose
    weight is 0.
    """
    middle, per_byte = np.uint8(2 ** (bits - 1)), 8 // bits
    padded = np.full((len(codes), -(-length // per_byte) * per_byte), middle)
    np.add(codes.view(np.uint8), middle, out=padded[:, : codes.shape[1]])  # bytes wrap around as they should
    made = padded[:, ::per_byte].copy()
    for place in range(1, per_byte):
        made |= padded[:, place::per_byte] << np.uint8(bits * place)
    return made
