"""TensorRT's rules for operators, attention, the KV cache and types; `quantization_rules` has those of Q/DQ.

Sources: the operator matrix and the importers of onnx-tensorrt (docs/operators.md, onnxOpImporters.cpp,
onnxOpCheckers.cpp), NVIDIA's pages on TensorRT 11 ("Working with Transformers", "KV Cache", "Strongly Typed Networks"),
and what TensorRT for RTX 1.7.1 really builds: the tests build a graph that breaks each rule, and say of each rule that
the builder does not share why it stays. Each rule takes one node and yields sentences; types and shapes must be
inferred before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
from onnx_ir import DataType

Rule = Callable[[ir.Node], Iterator[str]]

TOPK_LARGEST = 3840  # numbers that TopK gives

FLOATS = frozenset({DataType.FLOAT, DataType.FLOAT16, DataType.BFLOAT16})
INTEGERS = frozenset({DataType.INT32, DataType.INT64})
NUMBERS = FLOATS | INTEGERS
ANY = NUMBERS | {DataType.BOOL}
QUANTIZED = frozenset({DataType.INT8, DataType.INT4, DataType.FLOAT8E4M3FN})
BOOL = frozenset({DataType.BOOL})
BORDERS = ANY | QUANTIZED | {DataType.UINT8}

# The operators that exports and fusions can emit, with the types that the matrix allows for the first input.
OPERATORS: dict[str, frozenset[DataType]] = {
    **dict.fromkeys(("Abs", "Add", "Div", "Max", "Min", "Mul", "Neg", "Pow", "Sub"), NUMBERS),
    **dict.fromkeys(("ArgMax", "Clip", "CumSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "TopK"), NUMBERS),
    **dict.fromkeys(("Conv", "ConvTranspose", "ReduceL2"), FLOATS),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), NUMBERS),
    **dict.fromkeys(("Range",), INTEGERS | {DataType.FLOAT}),
    **dict.fromkeys(("And", "Not", "Or"), BOOL),
    **dict.fromkeys(("Ceil", "Cos", "Erf", "Exp", "Floor", "Log", "Reciprocal", "Round", "Sin", "Sqrt"), FLOATS),
    **dict.fromkeys(("Gelu", "Relu", "Sigmoid", "Softmax", "Softplus", "Tanh"), FLOATS),
    **dict.fromkeys(("Gemm", "MatMul"), FLOATS),
    **dict.fromkeys(("Attention", "RotaryEmbedding", "TensorScatter"), FLOATS),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), FLOATS),
    **dict.fromkeys(("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape"), ANY),
    **dict.fromkeys(("Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"), ANY),
    **dict.fromkeys(("Cast", "CastLike", "Identity", "Shape"), ANY | {DataType.UINT8}),
    **dict.fromkeys(("Pad",), NUMBERS),
    **dict.fromkeys(("Where",), BOOL),
    **dict.fromkeys(("ConstantOfShape",), INTEGERS),
    "QuantizeLinear": FLOATS,
    "DequantizeLinear": QUANTIZED,
}
# Inputs that must have one type: TensorRT's networks are strongly typed and nothing is promoted.
SAME_TYPE: dict[str, slice] = {
    **dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Sub"), slice(None)),
    **dict.fromkeys(("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or"), slice(None)),
    **dict.fromkeys(("Concat", "Gemm", "MatMul", "Range"), slice(None)),
    "Attention": slice(0, 3),
    "TensorScatter": slice(0, 2),
    "Where": slice(1, 3),
}
AXES: dict[str, int] = {"Slice": 3, "Squeeze": 1, "Unsqueeze": 1}  # the input that says them
ATTENTION_INPUTS = ("Q", "K", "V", "attn_mask", "past_key", "past_value", "nonpad_kv_seqlen")


def findings(model: ir.Model) -> Iterator[str]:
    """Everything that these rules find in a typed model."""
    yield from value_types(model)
    for node in model.graph.all_nodes():
        for rule in RULES:
            for text in rule(node):
                yield f"{node.name}: {text}"


def value_types(model: ir.Model) -> Iterator[str]:
    """Inputs, outputs and constants have a type that TensorRT has; uint8 comes in and goes out, and is no constant."""
    borders, constants = (*model.graph.inputs, *model.graph.outputs), model.graph.initializers.values()
    for value, known in (*((each, BORDERS) for each in borders), *((each, ANY | QUANTIZED) for each in constants)):
        if value.dtype == DataType.DOUBLE:  # it builds, but who feeds it as the file says feeds other numbers
            yield f"{value.name}: is DOUBLE, which TensorRT reads as FLOAT; make it FLOAT in the file"
        elif value.dtype not in known:
            yield f"{value.name}: is {type_name(value)}, which TensorRT has not; use a float, int32, int64 or bool"


def operator(node: ir.Node) -> Iterator[str]:
    """Only operators of the matrix, and only for the types that it names."""
    known = OPERATORS.get(node.op_type)
    if node.domain not in ("", "ai.onnx") or known is None:
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        yield f"{name} is not among the operators that TensorRT reads; lower it to ai.onnx operators it does read"
        return
    first = node.inputs[0] if node.inputs else None
    if first is not None and first.dtype not in known:
        listed = ", ".join(sorted(each.name for each in known))
        yield f"{node.op_type} of {type_name(first)} is not in TensorRT's matrix; it takes {listed}"


def same_type(node: ir.Node) -> Iterator[str]:
    """Equal types at every operator that has several operands."""
    if node.op_type not in SAME_TYPE:
        return
    operands = [value for value in node.inputs[SAME_TYPE[node.op_type]] if value is not None]
    types = {value.dtype for value in operands}
    if len(types) > 1:
        listed = ", ".join(f"{value.name} {type_name(value)}" for value in operands)
        yield f"{node.op_type} mixes types ({listed}); a strongly typed network needs a Cast before it"


def constant_axes(node: ir.Node) -> Iterator[str]:
    """Axes are constants."""
    if node.op_type not in AXES:
        return
    axes = value_at(node, AXES[node.op_type])
    if axes is not None and axes.const_value is None:
        yield f"the axes of {node.op_type} ({axes.name}) are computed; make them an initializer"


def top_k(node: ir.Node) -> Iterator[str]:
    """TopK gives at most 3840."""
    count = value_at(node, 1)
    if node.op_type != "TopK" or count is None or count.const_value is None:
        return
    if (k := int(count.const_value.numpy().reshape(-1)[0])) > TOPK_LARGEST:
        yield f"TopK with K = {k}; TensorRT gives at most {TOPK_LARGEST}"


def attention_inputs(node: ir.Node) -> Iterator[str]:
    """Q, K, V and at most a mask; one output."""
    if node.op_type != "Attention":
        return
    for index in range(4, len(node.inputs)):
        if node.inputs[index] is not None:
            yield f"Attention has {ATTENTION_INPUTS[index]}, which TensorRT does not read; write the cache before it"
    if sum(bool(output.uses()) or output.is_graph_output() for output in node.outputs[1:]):
        yield "Attention has more than one output in use; TensorRT gives only Y"


def attention_operands(node: ir.Node) -> Iterator[str]:
    """Q and K are two tensors: where they are one, the builder of TensorRT for RTX 1.7.1 crashes."""
    if node.op_type == "Attention" and value_at(node, 0) is value_at(node, 1):
        yield "Q and K of Attention are one tensor, on which the builder crashes; compute them by two operators"


def attention_mask(node: ir.Node) -> Iterator[str]:
    """The mask is bool or of Q's type, and excludes the causal flag."""
    if node.op_type != "Attention":
        return
    mask, query = value_at(node, 3), value_at(node, 0)
    if mask is None or query is None:
        return
    if mask.dtype not in (DataType.BOOL, query.dtype):
        yield f"the mask of Attention is {type_name(mask)}; it must be BOOL or Q's type, {type_name(query)}"
    if attribute(node, "is_causal", 0):
        yield "Attention has a mask and is_causal; TensorRT takes one of them, so put causality into the mask"


def attention_attributes(node: ir.Node) -> Iterator[str]:
    """No softcap, no softmax_precision, no output of the scores."""
    if node.op_type != "Attention":
        return
    if attribute(node, "softcap", 0.0):
        yield f"Attention has softcap {attribute(node, 'softcap', 0.0)}, which TensorRT does not compute; it must be 0"
    if "softmax_precision" in node.attributes:
        yield "Attention has softmax_precision, which TensorRT does not read; leave it out"


def cache_form(node: ir.Node) -> Iterator[str]:
    """TensorScatter writes along axis -2 of 4-D tensors, linearly."""
    if node.op_type != "TensorScatter":
        return
    for name, value in zip(("past_cache", "update"), node.inputs, strict=False):
        if value is not None and rank(value) != 4:
            yield f"{name} of TensorScatter is {rank(value)}-D; TensorRT's cache is (batch, heads, length, width)"
    if (axis := attribute(node, "axis", -2)) not in (-2, 2):
        yield f"TensorScatter along axis {axis}; TensorRT writes along -2, the length"
    if (mode := attribute(node, "mode", "linear")) != "linear":
        yield f"TensorScatter in mode {mode!r}; TensorRT has only 'linear'"


def cache_in_place(node: ir.Node) -> Iterator[str]:
    """The cache is a network input of static length, and what is written is a network output."""
    if node.op_type != "TensorScatter":
        return
    past, present = value_at(node, 0), node.outputs[0]
    if past is None or not past.is_graph_input():
        yield f"the cache of TensorScatter ({past.name if past else 'none'}) is no network input; TensorRT needs one"
    elif past.shape is None or len(past.shape) < 3 or not isinstance(past.shape[2], int):
        yield f"the length of the cache {past.name} is dynamic; it must be a number"
    if not present.is_graph_output():
        yield f"what TensorScatter writes ({present.name}) is no network output; TensorRT updates the input in place"


RULES: tuple[Rule, ...] = (
    operator,
    same_type,
    constant_axes,
    top_k,
    attention_inputs,
    attention_operands,
    attention_mask,
    attention_attributes,
    cache_form,
    cache_in_place,
)


def value_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def rank(value: ir.Value) -> int | None:
    """Dimensions of a value, None where they are not known."""
    return None if value.shape is None else len(value.shape)


def type_name(value: ir.Value) -> str:
    """The type of a value in words."""
    return value.dtype.name if value.dtype is not None else "of unknown type"


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the operator's default."""
    found = node.attributes.get(name)
    return default if found is None else found.value
