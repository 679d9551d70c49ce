"""Layers that differ only in their weights are traced once, and written once for each: tracing takes seconds a layer.

A transformer is traced with its first layer, its last, and one layer of every other structure between them. The nodes
of these are then copied, with the names and the weights of the layers that they stand for. Where the traced graph is
not a chain of layers as expected, the whole transformer is traced instead.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor, nn

from export.tracing.trace import SCOPES, scope_of, tensors

BLOCKS = "blocks"
LAYER = re.compile(rf"{BLOCKS}\.(\d+)\b")
WEIGHTS = f"transformer.{BLOCKS}."  # begins the names of the layers' weights


class ChainError(Exception):
    """The traced graph is not a chain of layers; the text says what else it is."""


class Structure(pickle.Pickler):
    """Pickles all that decides how a layer is traced: its parameters and buffers by type and shape alone."""

    def __init__(self, file: io.BytesIO, layer: nn.Module) -> None:
        super().__init__(file)
        self.fast = True  # equal content gives equal bytes, whichever of its objects are one
        self.held = {id(each) for each in tensors(layer).values()}

    def persistent_id(self, value: Any) -> Any:
        """What stands for a tensor; one that the layer holds otherwise becomes a constant, and counts by its bytes."""
        if not isinstance(value, Tensor):
            return None
        if id(value) in self.held:
            return str(value.dtype), tuple(value.shape)
        return hashlib.sha256(value.detach().contiguous().cpu().numpy().tobytes()).hexdigest(), tuple(value.shape)


def structure(layer: nn.Module) -> bytes:
    """What is equal for two layers whose graphs differ only in names and weights.

    Raises:
        ChainError: the layer cannot be pickled, so it is not known.
    """
    written = io.BytesIO()
    try:
        Structure(written, layer).dump(layer)
    except (AttributeError, pickle.PicklingError, RecursionError, TypeError, ValueError) as error:
        raise ChainError(str(error)) from error
    return written.getvalue()


@dataclass(frozen=True)
class Repetition:
    """Which layers are traced, by their places in the whole, and which of these stands for each layer of the whole."""

    traced: tuple[int, ...]
    stands: tuple[int, ...]

    def shortened(self, transformer: Any) -> Any:
        """The transformer with the traced layers alone; it shares its weights with the whole."""
        short = copy.copy(transformer)
        short._modules = dict(transformer._modules)
        short.blocks = nn.ModuleList(transformer.blocks[index] for index in self.traced)
        short.config = transformer.config.with_layers(tuple(transformer.config.layers[index] for index in self.traced))
        return short


def repetition(transformer: Any) -> Repetition | None:
    """How to trace a transformer with fewer layers; None where it would not save any."""
    blocks = transformer.blocks
    held = [id(each) for each in tensors(blocks).values()]
    if len(blocks) < 3 or len(set(held)) < len(held):  # weights that layers share have one name in a graph
        return None
    try:
        kinds = [structure(block) for block in blocks]
    except ChainError:
        return None
    first_of: dict[bytes, int] = {}
    for index, kind in enumerate(kinds[:-1]):
        first_of.setdefault(kind, index)
    traced = (*first_of.values(), len(blocks) - 1)
    if len(traced) == len(blocks):
        return None
    return Repetition(traced, (*(traced.index(first_of[kind]) for kind in kinds[:-1]), len(traced) - 1))


def repeated(transformer: nn.Module, caches: int, trace: Callable[[nn.Module], ir.Model]) -> ir.Model:
    """What `trace` makes of a transformer, from a trace of fewer layers where that can be.

    A transformer has `blocks` and `config.layers`, and treats all layers but the last alike.
    `caches` is how many inputs and outputs, behind the first of each, every layer has of its own: 2, or 0.
    """
    plan = repetition(transformer)
    if plan is None:
        return trace(transformer)
    model = trace(plan.shortened(transformer))
    try:
        repeat(model, plan, transformer, caches)
    except ChainError:
        return trace(transformer)
    return model


@dataclass
class TracedLayer:
    """One layer of the traced graph: its nodes, its own caches, and the stream (B, S, D) that it reads and makes."""

    nodes: list[ir.Node]
    given: Sequence[ir.Value]
    made: Sequence[ir.Value]
    reads: ir.Value
    makes: ir.Value


class Weights:
    """Initializers for the parameters and buffers of a whole transformer, each made when it is first asked for."""

    def __init__(self, transformer: nn.Module) -> None:
        self.held = {f"transformer.{name}": value for name, value in tensors(transformer).items()}
        self.made: dict[str, ir.Value] = {}

    def value(self, name: str, like: ir.Value) -> ir.Value:
        """The weight of this name, with the type of another layer's."""
        if name not in self.made:
            const = TorchTensor(self.held[name].detach(), name=name)
            self.made[name] = ir.Value(name=name, type=like.type, shape=const.shape, const_value=const)
        return self.made[name]


def repeat(model: ir.Model, plan: Repetition, transformer: nn.Module, caches: int) -> None:
    """Write every layer of the transformer into the graph of the shortened one, in place.

    `caches` is how many inputs and outputs, behind the first of each, every layer has of its own: 2, or 0.

    Raises:
        ChainError: the graph is not a chain of layers; it is as it was.
    """
    graph = model.graph
    layers, between, behind = chain(graph, len(plan.traced), caches)
    inputs, outputs, rest = list(graph.inputs), list(graph.outputs), caches * len(layers) + 1
    copies: dict[ir.Value, ir.Value] = {}
    weights, given, made, written = Weights(transformer), [], [], []
    stream = layers[0].reads
    for place, stands in enumerate(plan.stands):
        layer = layers[stands]
        if place == len(plan.stands) - 1:
            written += between
        copies[layer.reads] = stream
        # What is before the layers may ask for the sizes of a traced layer's caches.
        own = place == plan.traced[stands]
        copies |= {value: value if own else ir.Value(type=value.type, shape=value.shape) for value in layer.given}
        for node in layer.nodes:
            if node.inputs or not all(value in copies for value in node.outputs):  # else a constant that is there
                written.append(copied(node, f"{BLOCKS}.{stands}", f"{BLOCKS}.{place}", copies, weights))
        stream = copies[layer.makes]
        given += [copies[value] for value in layer.given]
        made += [copies[value] for value in layer.made]
    old = {node for layer in layers for node in layer.nodes}
    for node in (*between, *behind):
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer() in old:
                node.replace_input_with(index, copies[value])
    graph.inputs[:] = [inputs[0], *given, *inputs[rest:]]
    graph.outputs[:] = [outputs[0], *made, *outputs[rest:]]
    graph.remove([*old, *between, *behind])
    for node in old:  # so that what is before the layers has no users that are gone
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
    graph.extend([*written, *behind])
    order = {name: index for index, name in enumerate(weights.held)}
    others = {name: value for name, value in graph.initializers.items() if not name.startswith(WEIGHTS)}
    graph.initializers.clear()
    for name, value in sorted({**others, **weights.made}.items(), key=lambda each: order.get(each[0], len(order))):
        graph.initializers[name] = value


def copied(node: ir.Node, old: str, new: str, copies: dict[ir.Value, ir.Value], weights: Weights) -> ir.Node:
    """A node of one layer as another layer has it; what it makes is added to `copies`."""
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        name = "" if value is None else str(value.name)
        if value is not None and name.startswith(f"transformer.{old}."):
            inputs.append(weights.value(name.replace(old, new, 1), value))
        else:
            inputs.append(copies.get(value, value) if value is not None else None)
    outputs = [ir.Value(type=value.type, shape=value.shape) for value in node.outputs]
    copies.update(zip(node.outputs, outputs, strict=True))
    scopes = re.sub(rf"\b{re.escape(old)}\b", new, node.metadata_props.get(SCOPES, ""))
    return ir.Node(
        node.domain,
        node.op_type,
        inputs,
        node.attributes,
        outputs=outputs,
        overload=node.overload,
        version=node.version,
        metadata_props={SCOPES: scopes},
    )


def chain(graph: ir.Graph, count: int, caches: int) -> tuple[list[TracedLayer], list[ir.Node], list[ir.Node]]:
    """The layers of a traced graph, in order; other nodes right before the last layer; and nodes behind it.

    Raises:
        ChainError: nodes of a layer are not side by side, or it reads more of the layers before it than one stream.
    """
    nodes, between, behind = segments(graph, count)
    maker = {value: place for place, each in enumerate(nodes) for node in each for value in node.outputs}
    fixed = {value for each in nodes for node in each if not node.inputs for value in node.outputs}
    read = [{value for node in each for value in node.inputs if value is not None} - fixed for each in nodes]
    if any(value in maker for node in between for value in node.inputs):
        raise ChainError("nodes before the last layer read layers")
    before = {node for node in graph if node not in {*between, *behind} and scope_layer(node) is None}
    streams = [
        only(
            "layer 0 alone reads of what is before it",
            (v for v in read[0].difference(*read[1:]) if v.producer() in before),
        )
    ]
    for place in range(1, count):
        other = (value for value in read[place] if maker.get(value, place) != place)
        streams.append(only(f"layer {place} reads of other layers", other))
        if maker[streams[-1]] != place - 1:
            raise ChainError(f"layer {place} does not read the layer before it")
    streams.append(only("is read behind the layers", {v for node in behind for v in node.inputs if v in maker} - fixed))
    layers = []
    for place, each in enumerate(nodes):
        own = slice(1 + caches * place, 1 + caches * (place + 1))
        layers.append(TracedLayer(each, graph.inputs[own], graph.outputs[own], *streams[place : place + 2]))
    if [value for value in graph.outputs if value in maker] != [value for layer in layers for value in layer.made]:
        raise ChainError("outputs are not those of the layers, in order")
    return layers, between, behind


def segments(graph: ir.Graph, count: int) -> tuple[list[list[ir.Node]], list[ir.Node], list[ir.Node]]:
    """The nodes of each layer, other nodes right before the last layer, and those behind it.

    Raises:
        ChainError: a node is out of place, or holds a graph of its own.
    """
    layers: list[list[ir.Node]] = [[] for _ in range(count)]
    between: list[ir.Node] = []
    behind: list[ir.Node] = []
    for node in graph:
        place = scope_layer(node)
        if place is None:
            if any(layers):
                behind.append(node)
            continue
        if behind and place == count - 1 and not layers[place]:
            between, behind = behind, between
        if (
            behind
            or any(layers[place + 1 :])
            or any(each.type is ir.AttributeType.GRAPH for each in node.attributes.values())
        ):
            raise ChainError(f"{node.op_type} of layer {place} is out of place")
        layers[place].append(node)
    return layers, between, behind


def scope_layer(node: ir.Node) -> int | None:
    """Which layer made a node, if one did."""
    found = LAYER.match(scope_of(node))
    return int(found[1]) if found else None


def only(what: str, values: Iterable[ir.Value]) -> ir.Value:
    """The one value there is.

    Raises:
        ChainError: there are none, or several.
    """
    found = set(values)
    if len(found) != 1:
        raise ChainError(f"{what}: {sorted(str(each.name) for each in found)}")
    return found.pop()
