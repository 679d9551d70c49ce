"""A fusion replaces nodes of a decode graph by fewer that compute the same; each file here is one, named for it.

A fusion module has `ANCHORS`, the operators it looks at, and `rewrite(node, graph, cache)`, which rewrites the graph
around one such node or raises `Miss` with the reason; `cache` is what attention has to leave. Modules run in the order
of ORDER, each over the whole graph. A target says which of them it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import onnx_ir as ir
from onnx_ir.passes import common

from export.graph.builder import drop_unused_initializers
from export.graph.match import Miss
from export.graph.onnx_model import OnnxModel
from export.rewrites.fusions import attention
from export.runtime.manifest import Cache

# Packing looks for products that are still apart, and attention takes the packed product as it is.
ORDER = ("attention", "qkv", "gate_up", "norm", "activation")


class FusionError(ValueError):
    """A fusion that was asked for does not apply; the message says which and where the nearest try stopped."""


@dataclass(frozen=True)
class Fused:
    """The fused model, how often each fusion applied, and the last reason of each that applied nowhere."""

    model: OnnxModel
    counts: dict[str, int]
    missed: dict[str, str]


def names() -> list[str]:
    """Every fusion, in the order in which they run."""
    return [module.replace("_", "-") for module in ORDER]


def find(name: str) -> ModuleType:
    """The module of a fusion."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def fuse(model: OnnxModel, possible: Sequence[str], cache: Cache, only: Sequence[str] = ()) -> Fused:
    """Apply the fusions called `only`, or all `possible` ones, to a copy of the model; attention leaves this cache.

    Raises:
        FusionError: one of `only` is not possible for the model's target, or matched nothing.
    """
    target = model.manifest.target
    for name in only:
        if name not in possible:
            raise FusionError(f"{name!r} is not for {target}, which takes {', '.join(possible)}")
    decode, counts, missed = model.decode.clone(), {}, {}
    for name in names():
        if name not in (only or possible):
            continue
        counts[name], reason = apply(find(name), decode.graph, cache)
        if not counts[name]:
            missed[name] = reason
        elif name == "attention":
            attention.finish(decode.graph)
    for name in only:
        if name in missed:
            raise FusionError(f"{name!r} matched nothing; nearest try {missed[name]}")
    common.RemoveUnusedNodesPass()(decode)
    drop_unused_initializers(decode.graph)
    made = cache_of(decode, len(model.manifest.kv_heads)) or model.manifest.cache
    return Fused(replace(model, decode=decode, manifest=replace(model.manifest, cache=made)), counts, missed)


def apply(module: ModuleType, graph: ir.Graph, cache: Cache) -> tuple[int, str]:
    """How often a fusion applied, and the reason of the try that got farthest down the graph where it did not."""
    count, reason = 0, f"found no {' or '.join(module.ANCHORS)}"
    for node in list(graph):
        if node.graph is None or node.op_type not in module.ANCHORS:
            continue
        try:
            module.rewrite(node, graph, cache)
            count += 1
        except Miss as miss:
            reason = str(miss)
    return count, reason


def cache_of(model: ir.Model, layers: int) -> Cache | None:
    """'shared' if attention now works in place on a shared cache; None if it does not.

    Raises:
        FusionError: some layers do and others do not, which no loop can drive.
    """
    shared = sum(node.op_type == "GroupQueryAttention" for node in model.graph)
    if shared not in (0, layers):
        raise FusionError(f"'attention' matched {shared} of {layers} layers; one cache cannot serve both kinds")
    return "shared" if shared else None
