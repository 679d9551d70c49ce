"""Which shapes a plan takes: a profile for each kind of call, of every input whose size varies.

Letters: R rows, S tokens of a call, P cached positions, L length of a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from export.building import BuildError
from export.runtime.shape import Shape

Sizes = tuple[int, int, int]  # the smallest, the one that kernels are tuned for, the largest
WHOLE, STEP, PREFILL = "whole", "step", "prefill"
VALUE = "position"  # among the named sizes: what a number may be that sizes are computed from


@dataclass(frozen=True)
class Rows:
    """Rows of a step that a plan takes: the smallest and largest, and those its kernels are tuned for."""

    smallest: int
    best: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.best <= self.largest:
            raise ValueError(
                f"rows {self.smallest}, {self.best}, {self.largest}: need 1 <= smallest <= best <= largest"
            )

    @property
    def sizes(self) -> Sizes:
        """The three, in order."""
        return self.smallest, self.best, self.largest


@dataclass(frozen=True)
class Profile:
    """The smallest, best and largest shape of each input whose size varies, for calls of one kind.

    `value` is the same of each number in an input that sizes are computed from, such as a position.
    """

    name: str
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    value: Sizes = (1, 1, 1)


def decode_sizes(shape: Shape, rows: Rows) -> dict[str, dict[str, Sizes]]:
    """What the named sizes of a decode graph may be, for each kind of call.

    A model that reads one token a call has the profile ``step``; where its first call reads several, a class behind a
    start token or a text, it has ``prefill`` too. A masked model, and a next-scale one, make calls of one kind.
    """
    reach = shape.reach
    always = {"batch": rows.sizes, "text": (0, 0, 0)} | dict.fromkeys(("past", VALUE), (0, reach // 2, reach))
    if shape.drawing.masks:
        text = shape.text.length if shape.text else 0
        asked = (1, max(1, shape.length // 2), shape.length)
        return {WHOLE: {**always, "text": (text, text, text), "positions": asked}}
    if shape.drawing.scaled:
        counts = [side * side for side in shape.scales]
        return {WHOLE: {**always, "tokens": (min(counts), max(counts), max(counts))}}
    found = {STEP: {**always, "tokens": (1, 1, 1)}}
    if shape.prefix > 1:
        text = shape.text.length if shape.text else 0
        first = dict.fromkeys(("past", VALUE), (0, 0, reach))
        found[PREFILL] = {**always, **first, "tokens": (1, shape.prefix, reach), "text": (text, text, text)}
    return found


def other_sizes(shape: Shape, rows: Rows) -> dict[str, dict[str, Sizes]]:
    """The same of a graph that runs once for a picture: the image decoder and encoder, scales, what is hoisted."""
    text = shape.text.length if shape.text else 0
    return {WHOLE: {"batch": rows.sizes, "text": (text, text, text)}}


def profiles(graph: ir.Graph, sizes: Mapping[str, Mapping[str, Sizes]], unknown: Sizes | None = None) -> list[Profile]:
    """The profiles of a graph's inputs; sizes that `sizes` does not name are `unknown`.

    Raises:
        BuildError: the rank of an input is not known, or a size varies in a way that nobody bounds.
    """
    return [
        Profile(name, shapes(graph, known, unknown), known.get(VALUE) or unknown or (1, 1, 1))
        for name, known in sizes.items()
    ]


def shapes(
    graph: ir.Graph, sizes: Mapping[str, Sizes], unknown: Sizes | None
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Those of one profile."""
    found = {}
    for value in graph.inputs:
        if value.name in graph.initializers:
            continue
        if value.shape is None:
            raise BuildError(f"the input {value.name} has no shape; give it one, with names for the sizes that vary")
        if value.shape.is_static():
            continue
        bounds = [bound(value, dim, sizes, unknown) for dim in value.shape]
        smallest, best, largest = (tuple(each[place] for each in bounds) for place in range(3))
        found[value.name or ""] = (smallest, best, largest)
    return found


def bound(value: ir.Value, dim: int | ir.SymbolicDim, sizes: Mapping[str, Sizes], unknown: Sizes | None) -> Sizes:
    """What one size of an input may be."""
    if isinstance(dim, int):
        return dim, dim, dim
    known = sizes.get(str(dim.value), unknown)
    if known is None:
        raise BuildError(
            f"the input {value.name} has a size {dim.value!r} that nothing bounds; known: {', '.join(sorted(sizes))}"
        )
    return known
