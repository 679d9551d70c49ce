"""What shows that a plan computes as its graph asks: the layers that the builder lists, held against the graph.

A product is a matrix product or a convolution. The graph asks for low precision where a product's weights come from a
DequantizeLinear; it runs in low precision if the kernel reads the weights as they are stored and, where the graph
rounds the other operand too, that one as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import onnx_ir as ir

from export.building.layers import Layer, LayersError, Operand
from export.runtime.built import Evidence

LOW = frozenset({"Int8", "UInt8", "Int4", "FP8", "FP4"})
PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
KERNELS = ("gemm", "correlation", "deconvolution")
FUSED_PRODUCT = "runtime_fusion"  # of what stands before a product, with the product
FUSED_ATTENTION = "_mha_"
# Weights reach their product through these unchanged.
CARRIES = ("Transpose", "Reshape", "Cast", "Identity")
PAST, PRESENT = "past.", "present."


@dataclass(frozen=True)
class Asked:
    """A product whose weights, or both operands, the graph has in low precision."""

    name: str
    both: bool


def evidence(graph: ir.Graph, layers: Sequence[Layer], names: Sequence[str]) -> tuple[Evidence, ...]:
    """The evidence of each profile; `names` are those of the profiles.

    Raises:
        LayersError: a profile has no layers.
    """
    found = []
    for number, name in enumerate(names):
        own = [layer for layer in layers if layer.profile == number and layer.is_kernel]
        if not own:
            raise LayersError(f"the builder's log lists no layer of the profile {name}")
        found.append(of_profile(graph, own, name))
    return tuple(found)


def of_profile(graph: ir.Graph, layers: Sequence[Layer], name: str) -> Evidence:
    """The evidence of one profile."""
    attentions = [node.name or "" for node in graph if node.op_type == "Attention"]
    fused = {node for layer in layers if FUSED_ATTENTION in layer.name for node in layer.nodes}
    parts = set(attentions)
    products = [layer for layer in layers if is_product(layer)]
    outside = [layer for layer in products if not parts.intersection(layer.nodes)]
    types = Counter(" x ".join(each.type for each in operands(layer)) for layer in outside)
    wanted = list(asked(graph))
    in_float = tuple(each.name for each in wanted if not runs_low(each, products))
    caches = [value.name[len(PAST) :] for value in graph.inputs if value.name and value.name.startswith(PAST)]
    return Evidence(
        profile=name,
        kernels=len(layers),
        products=dict(sorted(types.items())),
        asked=len(wanted),
        low=len(wanted) - len(in_float),
        in_float=in_float,
        unpacked=sum(unpacks(layer) for layer in layers),
        attentions=len(attentions),
        fused=sum(each in fused for each in attentions),
        taken_apart=tuple(each for each in attentions if each not in fused),
        caches=len(caches),
        in_place=sum(in_place(each, layers) for each in caches),
    )


def is_product(layer: Layer) -> bool:
    """Whether a kernel is a matrix product or a convolution."""
    return layer.kind in KERNELS or (layer.kind == FUSED_PRODUCT and "Fc" in layer.name)


def operands(layer: Layer) -> tuple[Operand, ...]:
    """What a product multiplies: its first input, and its weights, which are the largest constant or another input."""
    constants = [each for each in layer.constants if len(each.sizes) > 1]
    if constants:
        return (*layer.inputs[:1], max(constants, key=lambda each: prod(each.sizes)))
    return layer.inputs[:2]


def asked(graph: ir.Graph) -> Iterator[Asked]:
    """The products of a graph that ask for low precision."""
    for node in graph:
        if node.op_type not in PRODUCTS or len(node.inputs) < 2:
            continue
        weights = dequantized(node.inputs[1])
        if weights is not None and stored(weights.inputs[0]):
            yield Asked(node.name or "", dequantized(node.inputs[0]) is not None)


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from, if it comes from one."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in CARRIES:
        value = node.inputs[0]
        node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def stored(value: ir.Value | None) -> bool:
    """Whether a quantized value is a constant, or rounded from one."""
    if value is None:
        return False
    producer = value.producer()
    if producer is not None and producer.op_type == "QuantizeLinear":
        source = producer.inputs[0]
        return source is not None and source.const_value is not None
    return value.const_value is not None


def runs_low(product: Asked, layers: Sequence[Layer]) -> bool:
    """Whether the kernels of a product read what the graph has in low precision as it is."""
    own = [layer for layer in layers if product.name in layer.nodes]
    return bool(own) and all(low(operands(layer), both=product.both) for layer in own)


def low(read: Sequence[Operand], *, both: bool) -> bool:
    """Whether the operands that should be are of low precision."""
    types = [each.type in LOW for each in read]
    return len(types) == 2 and (all(types) if both else any(types))


def unpacks(layer: Layer) -> bool:
    """Whether a kernel does nothing but turn weights of low precision to float."""
    return not layer.inputs and any(each.type in LOW for each in layer.constants)


def in_place(cache: str, layers: Sequence[Layer]) -> bool:
    """Whether nobody reads the old cache, and one kernel reads and writes the new one."""
    past, present = PAST + cache, PRESENT + cache
    if any(each.name == past for layer in layers for each in layer.inputs):
        return False
    return any(present in {x.name for x in layer.inputs} & {x.name for x in layer.outputs} for layer in layers)
