"""Hoist what does not change while a picture is drawn: it moves to a graph of its own that runs once, before the steps.

Letters: B batch, S positions of a call, L positions of a picture, N numbers of a position, D width.

What the classes decide, and in a masked model the features of a text, is the same at every step: modulation, keys and
values of attention to a text. The graph `begin` computes it of `labels` (and `features`); its outputs are inputs of the
decode graph, called `begin.` and the module they come from. What depends on the position of a call too (a causal model
modulated by class and position) is computed for all positions in one product, (B, L, N) together, and the decode graph
takes the rows of its positions.

Only what a product or a table of weights is behind moves: it saves reading those weights at every step. Nodes that only
make a value larger stay, so that the narrow value is what the steps read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir
from onnx_ir.passes import common

from export.graph.builder import drop_unused_initializers
from export.graph.match import scope
from export.graph.onnx_model import OnnxModel
from export.graph.weights import bytes_read
from export.rewrites.begin_graph import PREFIX, beginning, dims, take_in
from export.rewrites.unchanging import NOWHERE, Unchanging, learn, unchanging_inputs
from export.runtime.manifest import BEGIN, Manifest

FLOAT_BYTES = 4
WIDENING = ("Expand", "Tile")


class HoistError(ValueError):
    """Nothing can be hoisted; the message says why."""


@dataclass(frozen=True)
class Hoisted:
    """The model with its graph `begin`, and what moved: nodes, values, bytes of weights, bytes that a row reads now."""

    model: OnnxModel
    nodes: int = 0
    values: int = 0
    weight_bytes: int = 0
    row_bytes: int = 0


def hoist(model: OnnxModel) -> Hoisted:
    """Move what does not change in the loop of a copy of the model to its graph `begin`.

    Raises:
        HoistError: the model has one already.
    """
    manifest = model.manifest
    if model.begin is not None and reads_text_before(manifest):
        return Hoisted(model)  # as it was exported
    if model.begin is not None:
        raise HoistError("the model is hoisted already; name it once")
    decode = model.decode.clone()
    graph = decode.graph
    constant = [value for value in graph.inputs if value.name in unchanging_inputs(manifest)]
    if not constant:
        return Hoisted(model)
    facts = learn(graph, constant)
    moved = frontier(graph, facts)
    if not moved:
        return Hoisted(model)
    names = readable(moved, facts)
    begin = beginning(decode, names, facts, manifest)
    nodes = len(list(graph))
    take_in(graph, names, facts, begin)
    common.RemoveUnusedNodesPass()(decode)
    drop_unused_initializers(graph)
    for value in constant:
        if not value.uses():
            graph.inputs.remove(value)
    return Hoisted(
        replace(
            model, decode=decode, begin=begin, manifest=replace(manifest, files={**manifest.files, "begin": BEGIN})
        ),
        nodes=nodes - len(list(graph)),
        values=len(moved),
        weight_bytes=bytes_read(model.decode) - bytes_read(decode),
        row_bytes=sum(prod(dims(value)[2 if facts.axes[value] != NOWHERE else 1 :]) for value in moved) * FLOAT_BYTES,
    )


def reads_text_before(manifest: Manifest) -> bool:
    """Whether every export has a graph `begin`: a static cache has no place for the features of a text."""
    return manifest.cache == "static" and manifest.shape.text is not None


def frontier(graph: ir.Graph, facts: Unchanging) -> list[ir.Value]:
    """The values to compute before: those behind a product that a changing node reads, as narrow as they come."""
    moved: dict[ir.Value, None] = {}
    for node in graph:
        for value in node.outputs:
            if value in facts.product and any(use.node.outputs[0] not in facts.axes for use in value.uses()):
                moved[narrow(value, facts)] = None
    return [value for value in moved if is_movable(value, facts)]


def narrow(value: ir.Value, facts: Unchanging) -> ir.Value:
    """The value before it was only made larger."""
    while (node := value.producer()) is not None and node.op_type in WIDENING and node.inputs[0] in facts.product:
        value = node.inputs[0]
    return value


def is_movable(value: ir.Value, facts: Unchanging) -> bool:
    """Whether a value is float32 of a known shape, (B, S, N) where it depends on the positions."""
    if value.shape is None or value.dtype != ir.DataType.FLOAT:
        return False
    axis = facts.axes[value]
    if axis != NOWHERE and (len(value.shape), axis) != (3, 1):
        return False
    fixed = list(value.shape)[2 if axis != NOWHERE else 1 :]
    return all(isinstance(dim, int) for dim in fixed)


def readable(moved: Sequence[ir.Value], facts: Unchanging) -> dict[ir.Value, str]:
    """A name for each value: the module of the product behind it, and a number."""
    counts: dict[str, int] = {}
    names = {}
    for value in moved:
        module = scope(facts.product[value])
        names[value] = f"{PREFIX}{module}.{counts.get(module, 0)}"
        counts[module] = counts.get(module, 0) + 1
    return names
