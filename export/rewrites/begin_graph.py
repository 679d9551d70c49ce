"""The graph `begin`, which computes before the steps what they read, and the decode graph that reads it.

Letters: B batch, S positions of a call, L positions of a picture, N numbers of a position.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from export.graph.builder import Builder, drop_unused_initializers
from export.graph.weights import LOOKUPS
from export.rewrites.unchanging import NOWHERE, Unchanging, is_batch, is_table
from export.runtime.manifest import Manifest

PREFIX = "begin."
TOGETHER = f"{PREFIX}positions"  # everything that depends on the position, beside each other


def beginning(decode: ir.Model, names: dict[ir.Value, str], facts: Unchanging, manifest: Manifest) -> ir.Model:
    """The graph that computes these values of the unchanging inputs, those of all positions beside each other."""
    begin = decode.clone()
    graph = begin.graph
    graph.name = "begin"
    inputs = {value.name: value for value in graph.inputs}
    made = {value.name: value for node in graph for value in node.outputs}
    first = inputs["labels"]
    for node in graph:
        if is_batch(node, facts.batch):
            node.replace_input_with(0, first)
    builder = Builder(graph, graph[0], "begin")
    every = builder.initializer("every", np.arange(manifest.shape.reach))
    for value in facts.positions:
        ir.convenience.replace_all_uses_with(made[value.name], every)
    outputs, together = [], []
    for value, name in names.items():
        own = made[value.name]
        if facts.axes[value] == NOWHERE:
            own.name = name
            outputs.append(own)
        else:
            together.append(own)
    if together:
        joined = ir.Node("", "Concat", together, ir.convenience.convert_attributes({"axis": 2}), name="/begin/Concat")
        graph.append(joined)
        output = joined.outputs[0]
        widths = sum(dims(value)[2] for value in names if facts.axes[value] != NOWHERE)
        output.name, output.dtype = TOGETHER, ir.DataType.FLOAT
        output.shape = ir.Shape([facts.batch, manifest.shape.reach, widths])
        outputs.append(output)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    common.RemoveUnusedNodesPass()(begin)
    for node in graph:
        for value in node.outputs:
            if value not in outputs:
                value.shape = None  # of a call's positions; here they are all
    keep_classes_alone(graph, first, manifest)
    drop_unused_initializers(graph)
    for value in list(graph.inputs):
        if not value.uses():
            graph.inputs.remove(value)
    return begin


def keep_classes_alone(graph: ir.Graph, labels: ir.Value, manifest: Manifest) -> None:
    """Of a table of all embeddings, its scales and its zero points, only the rows of the classes are read here."""
    cut: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        table, index = node.inputs[:2] if node.op_type in LOOKUPS else (None, None)
        added = index.producer() if index is not None else None
        if added is None or added.op_type != "Add" or added.inputs[0] is not labels or not is_table(table):
            continue
        offset = added.inputs[1]
        if offset is None or offset.const_value is None:
            continue
        start = int(offset.const_value.numpy())
        # GatherBlockQuantized has scales beside its codes, and zero points.
        for place in (each for each in range(len(node.inputs)) if each != 1):
            whole = node.inputs[place]
            assert whole is not None
            assert whole.const_value is not None
            if whole not in cut:
                kept = whole.const_value.numpy()[start : start + manifest.shape.classes + 1]
                suffix = f"classes.{len(cut)}" if cut else "classes"
                cut[whole] = Builder(graph, node, "begin").initializer(suffix, kept)
            node.replace_input_with(place, cut[whole])
        node.replace_input_with(1, labels)
        if not added.outputs[0].uses():
            graph.remove(added, safe=True)


def take_in(graph: ir.Graph, names: dict[ir.Value, str], facts: Unchanging, begin: ir.Model) -> None:
    """Let the decode graph read the values instead of computing them."""
    outputs = {value.name: value for value in begin.graph.outputs}
    for value, name in names.items():
        if facts.axes[value] == NOWHERE:
            ir.convenience.replace_all_uses_with(value, fed(graph, outputs[name], value.shape))
    apart = [value for value in names if facts.axes[value] != NOWHERE]
    if not apart:
        return
    whole = fed(graph, outputs[TOGETHER], outputs[TOGETHER].shape)
    positions = next(value for node in graph for value in node.outputs if value in facts.positions)
    nodes = list(graph)
    builder = Builder(graph, nodes[nodes.index(positions.producer()) + 1], "begin")  # type: ignore[arg-type]
    rows = builder.add("Gather", [whole, positions], axis=1)  # (B, S, N)
    sizes = builder.initializer("sizes", np.array([dims(value)[2] for value in apart], dtype=np.int64))
    parts = builder.node("Split", [rows, sizes], outputs=len(apart), attributes={"axis": 2})
    for value, part in zip(apart, parts, strict=True):
        part.shape, part.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, part)


def fed(graph: ir.Graph, output: ir.Value, shape: ir.Shape | None) -> ir.Value:
    """A new input of the decode graph that is an output of the other."""
    value = ir.Value(name=output.name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    return value


def dims(value: ir.Value) -> list[int]:
    """The dimensions of a value; 0 for those that are not known before the graph runs."""
    assert value.shape is not None
    return [dim if isinstance(dim, int) else 0 for dim in value.shape]
