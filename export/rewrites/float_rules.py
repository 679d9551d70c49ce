"""Which nodes of a graph compute in half precision, and which stay in float32.

Products, attention, element-wise arithmetic and everything that only moves numbers compute in half precision. In
float32 stay, each for the reason that reports give:

- ``statistics``: sums, means, powers, roots and exponentials, and the division of a tensor by what they give. Norms and
  attention that are one operator compute these in float32 by themselves, unless the target's runtime does not.
- ``rotation``: rotary tables and the product with them.
- ``conditioning``: what depends on the class, or a masked model's text, alone; it is computed once a picture.
- ``constants``: arithmetic with a constant that the type cannot hold (1e-12 in float16), and products of weights whose
  scales it cannot hold.
- ``codes``: distances to codes, of which the nearest is chosen, and what is behind the last norm in front of them.
- ``overflow``: layers whose activations exceed the type.
- ``logits``: in bfloat16 the head, because 8 bits make many logits equal.

What samples from the logits is not touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Flag
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir import DataType

from export.graph.match import scope

PREFIXES = ("past.", "present.", "begin.")  # what engines keep, or hand from one graph to another
SAMPLING, LOGITS = "/sampling/", "logits"
POSITIONS = ("position", "positions", "seqlens_k", "total_sequence_length")

STATISTICS = frozenset(
    ("ArgMax", "ArgMin", "Cos", "CumSum", "Exp", "Log", "LogSoftmax", "Pow", "Reciprocal", "ReduceL1", "ReduceL2",
     "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Sin", "Softmax", "Softplus",
     "Sqrt", "TopK")
)  # fmt: skip
PRODUCTS = frozenset(
    ("Attention", "Conv", "ConvTranspose", "Einsum", "Gemm", "GroupQueryAttention", "MatMul", "MatMulNBits",
     "MultiHeadAttention")
)  # fmt: skip
NORMS = frozenset(
    ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization",
     "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
)  # fmt: skip
MOVES = frozenset(
    ("Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
     "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "TensorScatter", "Tile", "Transpose",
     "Unsqueeze", "Where")
)  # fmt: skip
DIVIDED = frozenset(("Div", "Mul", "Sub"))  # by statistics: x / rms, x * (1 / rms), x - mean
NOT_FLOAT = frozenset(
    ("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual",
     "NonZero", "Not", "Or", "QuantizeLinear", "Shape", "Size", "Xor")
)  # fmt: skip
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# Inputs that an operator takes as float32 whatever it computes in.
FIXED = {"GroupQueryAttention": (12, 13), "Resize": (1, 2)}
# Outputs that are float32 whatever an operator computes in: means and deviations of norms.
FIXED_OUTPUTS = dict.fromkeys(
    ("LayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), (1, 2)
)
LOGIT_BITS = 11  # float16's; with fewer the likeliest of many logits are equal
FEW = 16  # numbers of a constant that is a setting (an epsilon, a limit), not weights
SCALE_BITS = 8  # of a scale that must be left: int8 weights have as many


class On(Flag):
    """What a value depends on."""

    NOTHING = 0
    POSITION = 1
    CONDITION = 2
    TOKENS = 4


@dataclass(frozen=True)
class Limits:
    """Of a type: the largest number, the smallest with all its bits, the smallest of all, and how many bits."""

    max: float
    tiny: float
    smallest_subnormal: float
    bits: int


def limits(kind: DataType) -> Limits:
    """Those of a floating-point type."""
    found: Any = ml_dtypes.finfo(kind.numpy())  # type: ignore[no-untyped-call]
    return Limits(float(found.max), float(found.tiny), float(found.smallest_subnormal), int(found.nmant) + 1)


@dataclass(frozen=True)
class Rules:
    """What holds for a target and a model beyond the graph itself.

    `wide` are operators that the target's runtime would not compute in float32 by itself. `layers` are modules whose
    nodes stay in float32.
    """

    kind: DataType
    wide: Collection[str] = ()
    layers: Collection[str] = ()


class Widths:
    """What of a float32 graph becomes narrow: values, and the nodes that compute in the type; the graph stays as it is.

    `narrow` and `narrow_nodes` are these. `untouched` nodes sample from the logits. `reasons` says of nodes why they
    stay in float32.
    """

    def __init__(self, graph: ir.Graph, rules: Rules, condition: Collection[str]) -> None:
        """Decide for every node of a graph whose inputs in `condition` are the same at every step of a picture."""
        self.graph, self.rules = graph, rules
        self.limits = limits(rules.kind)
        self.narrow: set[ir.Value] = set()
        self.narrow_nodes: set[ir.Node] = set()
        self.reasons: dict[ir.Node, str] = {}
        self.on: dict[ir.Value, On] = {}
        self.known: dict[ir.Value, bool] = {}  # whether it is of floats
        self.statistic: set[ir.Value] = set()
        self.untouched = {node for node in graph.all_nodes() if (node.name or "").startswith(SAMPLING)}
        choices = [node for node in graph if node.op_type in ("ArgMin", "ArgMax") and node not in self.untouched]
        self.choosing = set(back_to(choices, NORMS))
        self.head: set[ir.Node] = set()
        if self.limits.bits < LOGIT_BITS:
            heads = [value.producer() for value in graph.outputs if value.name == LOGITS]
            self.head = set(back_to([node for node in heads if node is not None], PRODUCTS, inclusive=True))
        for value in graph.inputs:
            self.known[value] = value.dtype == DataType.FLOAT
            self.on[value] = On.CONDITION if value.name in condition else On.TOKENS
            if value.name in POSITIONS:
                self.on[value] = On.POSITION
            if self.known[value] and (value.name or "").startswith(PREFIXES):
                self.narrow.add(value)
        nodes = [node for node in graph if node not in self.untouched]
        for node in nodes:
            self.learn(node)
        for node in reversed(nodes):
            self.follow_readers(node)

    def floats(self, value: ir.Value) -> bool:
        """Whether a value is of floats, of whatever width."""
        return self.known.get(value, value.dtype == DataType.FLOAT)

    def takes_narrow(self, node: ir.Node, index: int) -> bool:
        """Whether a node takes this input in the narrow type."""
        return node in self.narrow_nodes and index not in FIXED.get(node.op_type, ())

    def computed(self, node: ir.Node) -> list[ir.Value]:
        """Float inputs that are no constants."""
        return [value for value in node.inputs
                if value is not None and self.floats(value) and not value.is_initializer()]  # fmt: skip

    def learn(self, node: ir.Node) -> None:
        """Decide for a node whose inputs are decided."""
        depends = On.POSITION if node.op_type in ("Shape", "Size", "Range") else On.NOTHING
        if node.op_type not in ("Shape", "Size"):
            for value in node.inputs:
                depends |= self.on.get(value, On.NOTHING) if value is not None else On.NOTHING
        for index, value in enumerate(node.outputs):
            self.on[value] = depends
            self.known[value] = self.gives_floats(node, index)
        given = self.computed(node)
        if not given and not any(self.known[value] for value in node.outputs):
            return
        reason = self.reason(node, given, depends)
        if reason:
            self.reasons[node] = reason
            if node.op_type in STATISTICS or (
                node.op_type not in DIVIDED | PRODUCTS | NORMS and any(value in self.statistic for value in given)
            ):
                self.statistic.update(node.outputs)
        else:
            self.set_narrow(node)

    def set_narrow(self, node: ir.Node) -> None:
        """Let a node compute in the type."""
        self.reasons.pop(node, None)
        self.narrow_nodes.add(node)
        fixed = FIXED_OUTPUTS.get(node.op_type, ())
        self.narrow.update(
            value for index, value in enumerate(node.outputs) if self.known[value] and index not in fixed
        )

    def set_wide(self, node: ir.Node, reason: str) -> None:
        """Let a node compute in float32."""
        self.reasons[node] = reason
        self.narrow_nodes.discard(node)
        self.narrow.difference_update(node.outputs)

    def gives_floats(self, node: ir.Node, index: int) -> bool:
        """Whether an output of a node is of floats, where the graph does not say."""
        dtype = node.outputs[index].dtype
        if dtype is not None:
            return dtype == DataType.FLOAT
        if node.op_type in NOT_FLOAT or (node.op_type == "TopK" and index == 1):
            return False
        if node.op_type == DEQUANTIZE:
            return True
        if node.op_type == "Cast":
            return node.attributes["to"].as_int() == int(DataType.FLOAT)
        if node.op_type == "ConstantOfShape":
            filling = node.attributes.get("value")
            return filling is None or filling.as_tensor().dtype == DataType.FLOAT
        value = node.inputs[1 if node.op_type in ("Where", "CastLike") else 0]
        return value is not None and self.floats(value)

    def reason(self, node: ir.Node, given: list[ir.Value], depends: On) -> str:
        """Why a node stays in float32; empty where it does not."""
        op, wide = node.op_type, [value for value in given if value not in self.narrow]
        if op == QUANTIZE:  # of what it is given, as it comes
            return self.reason_of(given[0]) if wide else ""
        if op == DEQUANTIZE:
            return ""  # its reader decides
        if scope(node) in self.rules.layers:
            return "overflow"
        if node in self.choosing:
            return "codes"
        if node in self.head:
            return "logits"
        if op in STATISTICS or op in self.rules.wide:
            return "statistics"
        if op in PRODUCTS:
            return "conditioning" if On.CONDITION in depends and On.TOKENS not in depends else self.unfit_weights(node)
        if op in NORMS:
            return ""
        if op in DIVIDED and any(value in self.statistic for value in wide):
            return "statistics"
        if op == "Mul" and On.TOKENS in depends and any(self.on[value] == On.POSITION for value in wide):
            return "rotation"
        if op not in MOVES and self.unfit_settings(node):
            return "constants"
        if not given:  # of a table, or of whole numbers
            if op == "Cast":
                return "input"
            return {On.POSITION: "rotation", On.CONDITION: "conditioning"}.get(depends & ~On.NOTHING, "")
        return self.reason_of(wide[0]) if len(wide) == len(given) else ""

    def reason_of(self, value: ir.Value) -> str:
        """Why a value is in float32."""
        producer = value.producer()
        return self.reasons.get(producer, "input") if producer is not None else "input"

    def unfit_settings(self, node: ir.Node) -> bool:
        """Whether one of a node's few constants is not a number of the type, or one without its full precision."""
        for value in node.inputs:
            if value is None or not value.is_initializer() or value.dtype != DataType.FLOAT:
                continue
            assert value.const_value is not None
            if value.const_value.size > FEW:
                continue
            sizes = np.abs(value.const_value.numpy())
            sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
            if ((sizes < self.limits.tiny) | (sizes > self.limits.max)).any():
                return True
        return False

    def unfit_weights(self, node: ir.Node) -> str:
        """`constants` where weights exceed the type, or their scales would lose more than int8 codes show."""
        for value in node.inputs[1:]:
            dequantized = value.producer() if value is not None else None
            if dequantized is not None and dequantized.op_type == DEQUANTIZE:
                if not self.scales_fit(dequantized.inputs[1]):
                    return "constants"
            elif value is not None and value.is_initializer() and value.dtype == DataType.FLOAT:
                assert value.const_value is not None
                array = value.const_value.numpy()
                if array.size and np.abs(array).max() > self.limits.max:
                    return "constants"
        if node.op_type == "MatMulNBits" and not self.scales_fit(node.inputs[2]):
            return "constants"
        return ""

    def scales_fit(self, value: ir.Value | None) -> bool:
        """Whether the scales of weights keep as many bits as their codes have."""
        if value is None or value.const_value is None:
            return True
        sizes = np.abs(value.const_value.numpy().astype(np.float32))
        least = self.limits.smallest_subnormal * 2**SCALE_BITS
        return bool(((sizes == 0) | ((sizes >= least) & (sizes <= self.limits.max))).all())

    def follow_readers(self, node: ir.Node) -> None:
        """What only moves numbers moves them in the type that all its readers take; weights are restored in it."""
        if node.op_type != DEQUANTIZE and node.op_type not in MOVES:
            return
        uses = [use for value in node.outputs if self.known.get(value) for use in value.uses()]
        given_out = any(value.is_graph_output() for value in node.outputs)
        if not uses or given_out or any(use.node in self.untouched for use in uses):
            return
        narrow = [self.takes_narrow(use.node, use.idx) for use in uses]
        if all(narrow) and node in self.reasons:
            self.set_narrow(node)
        elif node.op_type == DEQUANTIZE and not any(narrow):
            self.set_wide(node, self.reasons.get(uses[0].node, "input"))


def back_to(last: Iterable[ir.Node], ends: Collection[str], inclusive: bool = False) -> Iterator[ir.Node]:
    """These nodes and what they are computed from, back to the nearest operators in `ends`."""
    seen: set[ir.Node] = set()
    todo = list(last)
    while todo:
        node = todo.pop()
        if node in seen or (node.op_type in ends and not inclusive):
            continue
        seen.add(node)
        yield node
        if node.op_type not in ends:
            todo.extend(found for value in node.inputs if value is not None and (found := value.producer()) is not None)
