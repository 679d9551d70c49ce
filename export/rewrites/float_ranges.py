"""Which layers of a model exceed half precision, found by running its float32 graphs on tokens.

Letters: N pictures, T tokens of a picture, P x C features of a text, H x W pixels.

Of every value that would be computed or read in the narrow type the largest size is taken. Where it exceeds half of
what the type holds (the tokens that are drawn later are others), the nodes that make or read it stay in float32: all
nodes of their modules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.graph.builder import Builder
from export.graph.match import scope
from export.graph.onnx_model import FILES, OnnxModel
from export.graph.weights import save_graph
from export.rewrites.float_rules import DEQUANTIZE, MOVES, PREFIXES, Rules, Widths, limits
from export.rewrites.floats import GRAPHS, TYPES
from export.rewrites.unchanging import unchanging_inputs
from export.runtime.engine import Engine, run_once
from export.runtime.manifest import Floats

HEADROOM = 2.0
TOGETHER = 8  # pictures of one call
OUTPUT = "ranges"


class FloatRangeError(ValueError):
    """A model's activations exceed half precision; the message names the first and how large it is."""


@dataclass(frozen=True)
class Trial:
    """What a model is run on: inputs (N, 1 + ...) as `Engine.score` takes them, tokens (N, T), features (N, P, C)."""

    inputs: NDArray[np.int64]
    tokens: NDArray[np.int64]
    features: NDArray[np.float32] | None = None

    def parts(self) -> Sequence[slice]:
        """Few at a time."""
        return [slice(start, start + TOGETHER) for start in range(0, len(self.inputs), TOGETHER)]


@dataclass(frozen=True)
class Overflow:
    """A value that exceeds the type, and the modules that stay in float32 for it."""

    value: str
    largest: float
    layers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.value} reaches {self.largest:,.0f}"


def overflows(
    model: OnnxModel, floats: Floats, wide: Collection[str], pictures: Trial, layers: Collection[str] = ()
) -> list[Overflow]:
    """What of a float32 model on these pictures does not fit into the type, in the order of the graphs.

    Operators called `wide` and the modules `layers` stay in float32 in any case.

    Raises:
        FloatRangeError: keys or values do not fit, which are kept in the type.
    """
    limit = limits(TYPES[floats][0]).max / HEADROOM
    rules = Rules(TYPES[floats][0], frozenset(wide), frozenset(layers))
    condition = unchanging_inputs(model.manifest)
    found: list[Overflow] = []
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        model.save(folder)
        engine = Engine.load(folder)
        runs: dict[str, Callable[[Path, slice], NDArray[Any]]] = {
            "decode": lambda path, part: engine.run_variant(
                path, [OUTPUT], pictures.inputs[part], none_or(pictures.features, part)
            )[0],
            "image_decoder": lambda path, part: run_once(path, OUTPUT, {"tokens": pictures.tokens[part]}),
            "image_encoder": lambda path, part: run_once(
                path, OUTPUT, {"images": engine.decode_images(pictures.tokens[part])}
            ),
        }
        for role, graph in model.graphs.items():
            if role not in GRAPHS or role not in runs:
                continue
            copy = graph.clone()
            values = watched(copy.graph, Widths(copy.graph, rules, condition))
            if not values:
                continue
            names = [value.name or "" for value in values]
            watch(copy.graph, values)
            path = folder / f"watched_{FILES[role]}"
            save_graph(copy, path)
            seen = [runs[role](path, part).reshape(-1, len(names)) for part in pictures.parts()]
            largest = dict(zip(names, np.concatenate(seen).max(axis=0).tolist(), strict=True))
            found += beyond(graph.graph, rules, condition, largest, limit)
    return found


def none_or(features: NDArray[np.float32] | None, part: slice) -> NDArray[np.float32] | None:
    """Some of the features, where there are any."""
    return None if features is None else features[part]


def watched(graph: ir.Graph, widths: Widths) -> list[ir.Value]:
    """Values that are computed in the narrow type, or read so; what only moves numbers has no others."""
    return [
        value
        for node in graph
        if node.op_type not in MOVES | {DEQUANTIZE} and node not in widths.untouched
        for value in node.outputs
        if value.name and widths.floats(value) and (value in widths.narrow or narrow_readers(value, widths))
    ]


def narrow_readers(value: ir.Value, widths: Widths) -> list[ir.Node]:
    """Nodes that read a value in the narrow type, through nodes that only move it."""
    found = []
    for use in value.uses():
        if use.node in widths.narrow_nodes and use.node.op_type in MOVES:
            found += [reader for moved in use.node.outputs for reader in narrow_readers(moved, widths)]
        if widths.takes_narrow(use.node, use.idx):
            found.append(use.node)
    return found


def watch(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    """Give a graph the output `ranges` (n,): the largest size of each of n values."""
    builder = Builder(graph, None, OUTPUT)
    flat, nothing = builder.numbers("flat", -1), builder.initializer("nothing", np.zeros(1, dtype=np.float32))
    largest = []
    for number, value in enumerate(values):
        numbers = builder.add("Reshape", [builder.add("Abs", [value], f"sizes_{number}"), flat], f"flat_{number}")
        some = builder.add("Concat", [nothing, numbers], f"some_{number}", axis=0)  # a text's may be empty
        largest.append(builder.add("ReduceMax", [some], f"largest_{number}", keepdims=1))
    together = builder.add("Concat", largest, "together", axis=0)
    together.name, together.type, together.shape = OUTPUT, ir.TensorType(ir.DataType.FLOAT), ir.Shape([len(values)])
    graph.outputs.append(together)


def beyond(
    graph: ir.Graph, rules: Rules, condition: Sequence[str], largest: Mapping[str, float], limit: float
) -> list[Overflow]:
    """Values above the limit, and the modules that stay in float32 so that none is computed or read in the type.

    Raises:
        FloatRangeError: it is a key or value of attention, or what another graph hands over.
    """
    layers = set(rules.layers)
    found: dict[str, Overflow] = {}
    while True:
        widths, before = Widths(graph, replace(rules, layers=frozenset(layers)), condition), len(layers)
        for value in watched(graph, widths):
            name = value.name or ""
            size = largest.get(name, 0.0)
            if size <= limit:
                continue
            kept = [
                reader
                for reader in (value, *moved(value))
                if reader.is_graph_output() and (reader.name or "").startswith(PREFIXES)
            ]
            if kept:
                raise FloatRangeError(
                    f"{kept[0].name} reaches {size:,.0f}, and the cache is kept in the type, which holds "
                    f"{limit * HEADROOM:,.0f}; bfloat16 holds more, float32 all"
                )
            nodes = [*([value.producer()] if value in widths.narrow else []), *narrow_readers(value, widths)]
            scopes = {scope(node) for node in nodes if node is not None}
            layers |= scopes
            known = found.get(name)
            found[name] = Overflow(name, size, tuple(sorted(scopes | set(known.layers if known else ()))))
        if len(layers) == before:
            return list(found.values())


def moved(value: ir.Value) -> Iterator[ir.Value]:
    """The values that hold the same numbers elsewhere."""
    for use in value.uses():
        if use.node.op_type in MOVES:
            for each in use.node.outputs:
                yield each
                yield from moved(each)
