"""What one call feeds a foreign graph, computed in the graph from our tokens and from the cache's length.

Letters: B batch, S our tokens of a call, N the model's ids of the same call, P cached positions.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.foreign.signature import (
    INT64,
)
from export.foreign.writing import Writing
from export.graph.builder import Builder


class Call:
    """What one call feeds the foreign graph, as values of the graph."""

    def __init__(
        self, builder: Builder, tokens: ir.Value, labels: ir.Value, past: ir.Value | None, writing: Writing
    ) -> None:
        self.builder, self.tokens, self.labels, self.writing = builder, tokens, labels, writing
        self.constants: dict[str, ir.Value] = {}
        self.batch = builder.add("Shape", [tokens], "batch", start=0, end=1)  # (1,)
        count = builder.add("Shape", [tokens], "count", start=1, end=2)
        zero = self.constant("zero", [0])
        self.past = zero if past is None else builder.add("Shape", [past], "past", start=2, end=3)
        self.ends: ir.Value | None = None
        if writing.one_for_one:
            self.reach = builder.add("Add", [self.past, count], "reach")
            self.ids = builder.add("Gather", [self.constant("table", writing.table), tokens], "ids")
        else:
            self.ids = self.spelled(count)

    def constant(self, name: str, array: object) -> ir.Value:
        """A table of whole numbers; the same one for the same name."""
        if name not in self.constants:
            self.constants[name] = self.builder.initializer(name, np.asarray(array, dtype=np.int64))
        return self.constants[name]

    def spelled(self, count: ir.Value) -> ir.Value:
        """Ids (B, N) of tokens that become several; also `reach` and `ends`."""
        builder, writing = self.builder, self.writing
        begins = np.concatenate([[0], np.cumsum(writing.lengths)])  # of each of our tokens, and the end
        owner_at = np.append(writing.owners[0], len(writing.lengths))
        first = builder.add("Gather", [self.constant("owner_at", owner_at), self.past], "first")
        behind = builder.add("Add", [first, count], "behind")
        self.reach = builder.add("Gather", [self.constant("begins", begins), behind], "reach")

        def now(name: str, array: NDArray[np.int64], start: ir.Value, end: ir.Value) -> ir.Value:
            return builder.add("Slice", [self.constant(name, array), start, end], f"{name}/Slice")

        owner, factor, offset = (
            now(name, row, self.past, self.reach)
            for name, row in zip(("owner", "factor", "offset"), writing.owners, strict=True)
        )
        last = now("last", begins[1:] - 1, first, behind)
        self.ends = builder.add("Sub", [last, self.past], "ends")  # (S,)
        local = builder.add("Sub", [owner, first], "local")
        picked = builder.add("Gather", [self.tokens, local], "picked", axis=1)  # (B, N)
        place = builder.add("Add", [builder.add("Mul", [picked, factor], "scaled"), offset], "place")
        return builder.add("Gather", [self.constant("table", writing.table), place], "ids")

    @cached_property
    def hidden(self) -> ir.Value:
        """Padded positions of each row (B, 1)."""
        pads = self.builder.add("Gather", [self.constant("padding", self.writing.padding), self.labels], "pads")
        return self.builder.add("Unsqueeze", [pads, self.constant("axis", [1])], "hidden")

    @cached_property
    def mask(self) -> ir.Value:
        """1 for every position that may be seen (B, P + N)."""
        size = self.builder.add("Concat", [self.batch, self.reach], "mask/size", axis=0)
        if not self.writing.padded:
            return self.builder.add("Expand", [self.constant("one", [[1]]), size], "mask")
        columns = self.counted("columns", self.constant("zero", [0]), self.reach)
        seen = self.builder.add("GreaterOrEqual", [columns, self.hidden], "seen")
        return self.builder.add("Cast", [seen], "mask", to=int(INT64))

    @cached_property
    def positions(self) -> ir.Value:
        """Positions of the call's ids (B, N)."""
        builder = self.builder
        count = builder.add("Sub", [self.reach, self.past], "positions/count")
        size = builder.add("Concat", [self.batch, count], "positions/size", axis=0)
        counted = self.counted("positions/Range", self.past, self.reach)
        if self.writing.padded:
            shifted = builder.add("Sub", [counted, self.hidden], "positions/shifted")
            counted = builder.add("Max", [shifted, self.constant("least", [0])], "positions/seen")
        return builder.add("Expand", [counted, size], "positions")

    def filled(self, like: ir.Value) -> ir.Value:
        """Whether there are cached positions: () or (1,), as the foreign input is."""
        found = self.builder.add("Greater", [self.past, self.constant("zero", [0])], "filled")
        scalar = like.shape is not None and not len(like.shape)
        return self.builder.add("Squeeze", [found], "filled/scalar") if scalar else found

    def counted(self, name: str, start: ir.Value, end: ir.Value) -> ir.Value:
        """start, start + 1, ... before end."""
        low, high = (
            self.builder.add("Squeeze", [value], f"{name}/{which}") for which, value in (("low", start), ("high", end))
        )
        return self.builder.add("Range", [low, high, self.constant("step", 1)], name)
