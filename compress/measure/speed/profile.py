"""Where an engine's time goes: the runtime's profile by kind of layer, beside what the machine could do.

A kind is told from the names of nodes, which carry the module that made them. Every operator's time is the runtime's
own; what lies between operators is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from compress.core.settings import setting
from export.graph.graph_file import load_graph
from export.graph.weights import LOOKUPS
from export.runtime.engine import Engine
from export.runtime.profiling import Event
from export.runtime.roofline import Roofline

# The first that occurs in a node's name; modulation and norms stand inside of what they belong to.
KINDS = {
    "sampling": ("sampling", "sampler", "guidance", "noise"),
    "modulation": ("modulation", "shared"),
    "norms": ("norm",),
    "attention": ("attention", "qkv", "attn"),
    "feed-forward": ("ffn", "gate_up"),
    "head": ("head", "logits"),
    "embedding": ("embedding", "position", "rotary"),
}
DECODER = {
    "decoder: convolutions": ("Conv", "QLinearConv", "FusedConv", "NhwcFusedConv", "ReorderInput", "ReorderOutput"),
    "decoder: norms": ("GroupNorm", "InstanceNormalization", "GroupNormalization", "ReduceMean", "LayerNormalization"),
    "decoder: resizing": ("Resize", "Upsample"),
    "decoder: quantizing": ("QuantizeLinear", "DequantizeLinear"),
}
OTHER = "other"
FLOAT_BYTES = 4


@dataclass(frozen=True)
class ProfileRow:
    """One kind of layer."""

    kind: str = setting(doc="attention, feed-forward, head, norms, ..., other, or a part of the image decoder")
    calls: int = setting(doc="runs of operators")
    milliseconds: float = setting(doc="time of its operators for the whole call")
    ms_per_token: float = setting(doc="the same divided by the tokens of a picture")
    share: float = setting(doc="its part of the time of all operators")
    bytes_per_token: float = setting(doc="weights and cached keys and values that it reads for each token")
    roofline_share: float | None = setting(
        None, doc="part of the machine's bandwidth or rate of products that this is, whichever is larger; null: none"
    )


@dataclass(frozen=True)
class Load:
    """What the nodes of one kind read and compute in one step of one row."""

    size_bytes: float = 0.0
    products: float = 0.0
    integer: bool = False


def profile(engine: Engine, rows: int, limits: Roofline) -> list[ProfileRow]:
    """The rows of an engine that draws `rows` pictures at once, the slowest kind first, then the image decoder's."""
    drawn, decoded = engine.profile(rows), engine.profile_image_decoder(rows)
    total = sum(event.microseconds for event in (*drawn, *decoded))
    shape, loads = engine.shape, loads_of(engine)
    in_step = rows * (2 if engine.sampler.guided else 1)
    steps = shape.drawing.steps(shape, engine.sampler)
    positions = shape.length * (steps if shape.drawing.masks else 1) * in_step
    found = []
    for kind, events in grouped(drawn, kind_of):
        load, seconds = loads.get(kind, Load()), sum(event.microseconds for event in events) / 1e6
        read = load.size_bytes * steps + (cache_bytes(engine) * in_step if kind == "attention" else 0)
        shares = [limits.share_of_bandwidth(read, seconds)] if seconds else []
        if seconds and load.products:
            flops = 2 * load.products * positions
            shares.append(limits.share_of_products(flops, seconds, "int8" if load.integer else "fp32"))
        found.append(row(kind, events, total, shape.length, read, max(shares, default=0) or None))
    for kind, events in grouped(decoded, decoder_kind):
        found.append(row(kind, events, total, shape.length, 0.0, None))
    return found


def row(
    kind: str, events: list[Event], total: float, length: int, read: float, roofline_share: float | None
) -> ProfileRow:
    """One row of events."""
    spent = sum(event.microseconds for event in events)
    return ProfileRow(
        kind, len(events), spent / 1e3, spent / 1e3 / length, spent / total, read / length, roofline_share
    )


def grouped(events: list[Event], kind: object) -> Iterator[tuple[str, list[Event]]]:
    """Events by kind, the slowest kind first."""
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(kind(event.node, event.op), []).append(event)  # type: ignore[operator]
    yield from sorted(groups.items(), key=lambda item: -sum(event.microseconds for event in item[1]))


def kind_of(node: str, op: str) -> str:
    """The kind of a node of the decode graph, by its name."""
    name = node.lower()
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


def decoder_kind(node: str, op: str) -> str:
    """The kind of a node of the image decoder, by its operator."""
    return next((kind for kind, ops in DECODER.items() if op in ops), "decoder: other")


def loads_of(engine: Engine) -> dict[str, Load]:
    """What each kind reads and multiplies in a step, from the constants of the graph."""
    model = load_graph(engine.folder / engine.manifest.files["decode"])
    found: dict[str, Load] = {}
    for node in model.graph:
        if node.op_type in LOOKUPS:
            continue
        kind = kind_of(node.name or "", node.op_type)
        before = found.get(kind, Load())
        constants = [each.const_value for each in node.inputs if each is not None and each.is_initializer()]
        size = sum(each.nbytes for each in constants if each is not None)
        products, integer = products_of(node), before.integer or node.op_type in ("MatMulNBits", "DequantizeLinear")
        found[kind] = Load(before.size_bytes + size, before.products + products, integer)
    return found


def products_of(node: ir.Node) -> float:
    """Multiplications of one position with constant weights."""
    if node.op_type == "MatMulNBits":
        return node.attributes["K"].as_int() * node.attributes["N"].as_int()
    if node.op_type in ("MatMul", "Gemm", "DequantizeLinear"):
        weights = [each.shape for each in node.inputs if each is not None and each.is_initializer()]
        return max((math.prod(int(str(n)) for n in shape) for shape in weights if shape and len(shape) == 2), default=0)
    return 0


def cache_bytes(engine: Engine) -> float:
    """Keys and values that one row of a step reads over a whole picture."""
    manifest, shape = engine.manifest, engine.shape
    reads = shape.length * (shape.length + 1) / 2 if shape.drawing.sequential else 0
    return reads * 2 * FLOAT_BYTES * manifest.head_width * sum(manifest.kv_heads)
