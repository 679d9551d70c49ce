"""Edits of ONNX graphs by the names of their values, nodes and weights: how faults are planted into a sound engine.

An edit changes a graph in place. Names are those that the exporter gives: `blocks.1.ffn.down.weight` is a weight,
`/blocks/1/ffn/down/MatMul` a node, `past.1.key` an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Edit = Callable[[onnx.ModelProto], None]
Array = NDArray[Any]


def number(value: float, kind: str = "float32") -> Array:
    """A scalar."""
    return np.array(value, dtype=kind)


def joined(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(model: onnx.ModelProto) -> None:
        for each in edits:
            each(model)

    return edit


def readers(graph: onnx.GraphProto, name: str) -> list[tuple[onnx.NodeProto, int]]:
    """Who reads a value, at which place.

    Raises:
        KeyError: nobody does.
    """
    found = [(node, place) for node in graph.node for place, each in enumerate(node.input) if each == name]
    if not found:
        raise KeyError(f"nobody reads {name}")
    return found


def node_called(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    """The node of a name.

    Raises:
        KeyError: there is none.
    """
    found: dict[str, onnx.NodeProto] = {node.name: node for node in graph.node}
    if name not in found:
        raise KeyError(f"no node is called {name}")
    return found[name]


def weights_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Its weights: floating and integer, but no shapes and axes."""
    for tensor in graph.initializer:
        if not tensor.name.startswith("sampling.") and tensor.data_type != onnx.TensorProto.INT64:
            yield tensor


def weight(name: str, change: Callable[[Array], Array]) -> Edit:
    """A weight is what `change` makes of it."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == name:
                replace_by(tensor, change)
                return
        raise KeyError(f"no weight is called {name}")

    return edit


def weight_read(node: str, place: int, change: Callable[[Array], Array]) -> Edit:
    """The weight that a node reads at a place, whatever it is called, is what `change` makes of it."""

    def edit(model: onnx.ModelProto) -> None:
        weight(node_called(model.graph, node).input[place], change)(model)

    return edit


def replace_by(tensor: onnx.TensorProto, change: Callable[[Array], Array]) -> None:
    """Put what `change` makes of a tensor in its place."""
    before = numpy_helper.to_array(tensor)
    after = np.asarray(change(before.copy()), dtype=before.dtype)
    tensor.CopyFrom(numpy_helper.from_array(after, tensor.name))


def every_weight(change: Callable[[Array], Array]) -> Edit:
    """Every floating weight of some size is what `change` makes of it."""

    def edit(model: onnx.ModelProto) -> None:
        for tensor in weights_of(model.graph):
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims):
                replace_by(tensor, change)

    return edit


def rows(change: dict[int, int]) -> Callable[[Array], Array]:
    """Rows of a matrix are others: `{3: 4, 4: 3}` swaps two."""

    def changed(matrix: Array) -> Array:
        matrix[list(change)] = matrix[list(change.values())]
        return matrix

    return changed


def columns(change: dict[int, int], width: int = 1) -> Callable[[Array], Array]:
    """Columns of a matrix, `width` at a time, are others."""

    def changed(matrix: Array) -> Array:
        before = matrix.copy()
        for one, other in change.items():
            matrix[:, one * width : (one + 1) * width] = before[:, other * width : (other + 1) * width]
        return matrix

    return changed


def added(place: Any, value: float) -> Callable[[Array], Array]:
    """A number is added at a place."""

    def changed(array: Array) -> Array:
        array[place] += np.asarray(value, dtype=array.dtype)
        return array

    return changed


def scaled(by: float, place: Any = ...) -> Callable[[Array], Array]:
    """What is at a place is multiplied."""

    def changed(array: Array) -> Array:
        array[place] = array[place] * by
        return array

    return changed


def constants(graph: onnx.GraphProto, arrays: Sequence[Array]) -> list[str]:
    """Names of new constants."""
    taken = {each.name for each in graph.initializer}
    free = (name for index in count() if (name := f"planted.constant.{index}") not in taken)
    names = [next(free) for _ in arrays]
    graph.initializer.extend(numpy_helper.from_array(*each) for each in zip(arrays, names, strict=True))
    return names


def new_name(graph: onnx.GraphProto) -> str:
    """A name of a value that no node makes yet."""
    taken = {name for node in graph.node for name in node.output}
    return next(name for index in count() if (name := f"planted.{index}") not in taken)


def insert_behind(graph: onnx.GraphProto, name: str, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put nodes behind the one that makes a value, or first where it is an input."""
    makers = [place for place, node in enumerate(graph.node) if name in node.output]
    for node in reversed(nodes):
        graph.node.insert(makers[0] + 1 if makers else 0, node)


def behind(name: str, op: str, *given: Array, first: bool = False, by: str = "", **attributes: Any) -> Edit:
    """Who reads a value reads it behind an operator: everybody, or the node called `by`."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        places = [(node, place) for node, place in readers(graph, name) if by in ("", node.name)]
        made, names = new_name(graph), constants(graph, given)
        for node, place in places:
            node.input[place] = made
        inputs = [*names, name] if first else [name, *names]
        insert_behind(graph, name, [helper.make_node(op, inputs, [made], made, **attributes)])

    return edit


def output_behind(name: str, op: str, *given: Array, first: bool = False, **attributes: Any) -> Edit:
    """What a node makes is what it was behind an operator, for all who read it and as an output."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        before, names = new_name(graph), constants(graph, given)
        for node in graph.node:
            for place, each in enumerate(node.output):
                if each == name:
                    node.output[place] = before
        inputs = [*names, before] if first else [before, *names]
        insert_behind(graph, before, [helper.make_node(op, inputs, [name], before, **attributes)])

    return edit


def shifted(name: str) -> Edit:
    """Everybody who reads a cache (B, K, P, d) reads each position's from the one before it."""

    def edit(model: onnx.ModelProto) -> None:
        graph, places = model.graph, readers(model.graph, name)
        first, one, last, axis = constants(graph, [np.array([value]) for value in (0, 1, -1, 2)])
        ends = {"planted.head": [first, one], "planted.body": [first, last]}
        made = [helper.make_node("Slice", [name, *between, axis], [made], made) for made, between in ends.items()]
        made.append(helper.make_node("Concat", list(ends), ["planted"], "planted", axis=2))
        for node, place in places:
            node.input[place] = "planted"
        insert_behind(graph, name, made)

    return edit


def first_rows(name: str, kept: int) -> Edit:
    """Everybody who reads a cache (B, K, P, d) finds zeros behind the first rows of it."""

    def edit(model: onnx.ModelProto) -> None:
        graph, places = model.graph, readers(model.graph, name)
        few, zero, one, axes, nothing = constants(
            graph, [np.array(kept), np.array(0), np.array(1), np.array([1, 2, 3]), number(0)]
        )
        chain = [
            ("Shape", [name], "shape"),
            ("Gather", ["planted.shape", zero], "count"),
            ("Range", [zero, "planted.count", one], "rows"),
            ("Less", ["planted.rows", few], "kept"),
            ("Unsqueeze", ["planted.kept", axes], "mask"),
            ("Where", ["planted.mask", name, nothing], "past"),
        ]
        made = [helper.make_node(op, given, [f"planted.{it}"], f"planted.{it}") for op, given, it in chain]
        for node, place in places:
            node.input[place] = "planted.past"
        insert_behind(graph, name, made)

    return edit


def unwritten(*names: str) -> Edit:
    """Caches (B, K, P, d) are given out with zeros where a step should have written; the step itself reads its own."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        for name in names:
            (maker,) = (node for node in graph.node if name in node.output)
            past, new = maker.input
            whole, nothing, (zero,) = f"{name}.whole", f"{name}.nothing", constants(graph, [number(0)])
            for node, place in readers(graph, name):
                node.input[place] = whole
            maker.output[0] = whole
            made = [
                helper.make_node("Mul", [new, zero], [nothing], nothing),
                helper.make_node("Concat", [past, nothing], [name], f"{name}.unwritten", axis=2),
            ]
            insert_behind(graph, whole, made)

    return edit


def exchanged(one: str, other: str) -> Edit:
    """Who reads one value reads the other, and the other way round."""

    def edit(model: onnx.ModelProto) -> None:
        places = [(each, readers(model.graph, each)) for each in (one, other)]
        for name, read in places:
            for node, place in read:
                node.input[place] = other if name == one else one

    return edit


def reads(node: str, place: int, name: str) -> Edit:
    """A node reads another value at one of its places."""

    def edit(model: onnx.ModelProto) -> None:
        node_called(model.graph, node).input[place] = name

    return edit


def outputs_exchanged(node: str, one: int = 0, other: int = 1) -> Edit:
    """Who reads one output of a node reads another of it, and the other way round."""

    def edit(model: onnx.ModelProto) -> None:
        made = node_called(model.graph, node).output
        made[one], made[other] = made[other], made[one]

    return edit


def attribute(node: str, **values: Any) -> Edit:
    """A node has other attributes."""

    def edit(model: onnx.ModelProto) -> None:
        found = node_called(model.graph, node)
        kept = [each for each in found.attribute if each.name not in values]
        del found.attribute[:]
        found.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])

    return edit


def operator(node: str, op: str) -> Edit:
    """A node is another standard operator of the same inputs, without attributes."""

    def edit(model: onnx.ModelProto) -> None:
        found = node_called(model.graph, node)
        found.op_type, found.domain = op, ""
        del found.attribute[:]

    return edit
