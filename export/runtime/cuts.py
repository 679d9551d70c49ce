"""What limits the tokens that can be drawn: each limit for NumPy and, beside it, for the decode graph and for PyTorch.

Letters: B pictures, n positions of a step, V logits of a position.

A limit is a setting of `Sampler` with its name; all of its forms keep the same tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
BEYOND = 2**31 - 1  # as a limit of a graph: more tokens than there are, and more than all probability
SMALLEST_SHARE = 2.0**-64  # a lower top_p would be 0 in float32; this one keeps the likeliest token alone, too


class GraphBuilder(Protocol):
    """What writes nodes into a graph; values are those of its library."""

    def node(
        self, op: str, inputs: Sequence[Any], suffix: str = "", *, outputs: int = 1, attributes: Any = None
    ) -> list[Any]:
        """The outputs of a new node."""

    def add(self, op: str, inputs: Sequence[Any], suffix: str = "", **attributes: Any) -> Any:
        """The one output of a new node."""

    def initializer(self, suffix: str, array: NDArray[Any]) -> Any:
        """A constant."""

    def numbers(self, name: str, *values: int) -> Any:
        """A constant (n,) of whole numbers."""


class Cut(ABC):
    """A limit on the tokens that can be drawn."""

    name: ClassVar[str]
    off: ClassVar[float]  # keeps all tokens
    kind: ClassVar[str]  # a graph reads the limit in this type and shape
    sizes: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def keep(self, scores: Logits, setting: float) -> Logits:
        """Scores (..., V) with those of tokens that cannot be drawn at minus infinity."""

    @abstractmethod
    def keep_in_graph(self, builder: GraphBuilder, scores: Any, limit: Any) -> Any:
        """The same as nodes, for scores (B, n, V) and the limit as a graph reads it."""

    @abstractmethod
    def keep_on_device(self, scores: Any, setting: float) -> Any:
        """The same for a tensor of PyTorch (..., V), where it lies."""

    @abstractmethod
    def limit(self, setting: float) -> NDArray[Any]:
        """A setting as a graph reads it; one that keeps all is a limit that nothing reaches."""


class TopK(Cut):
    """The k likeliest tokens; ties with the last of them stay too."""

    name, off, kind, sizes = "top_k", 0, "int64", (1,)

    def keep(self, scores: Logits, setting: float) -> Logits:
        """What is below the k-th largest of the row goes."""
        count = int(setting)
        if not 0 < count < scores.shape[-1]:
            return scores
        floor = np.partition(scores, -count, axis=-1)[..., -count, None]
        return np.where(scores < floor, np.float32(-np.inf), scores)

    def keep_in_graph(self, builder: GraphBuilder, scores: Any, limit: Any) -> Any:
        """TopK finds the floor."""
        width = builder.add("Shape", [scores], "width", start=2, end=3)
        count = builder.add("Min", [limit, width], "count")
        largest, _ = builder.node("TopK", [scores, count], "largest", outputs=2, attributes={"axis": -1, "sorted": 0})
        floor = builder.add("ReduceMin", [largest, builder.numbers("last", -1)], "floor", keepdims=1)
        below = builder.add("Less", [scores, floor], "below")
        return builder.add("Where", [below, lowest(builder), scores], "likeliest")

    def keep_on_device(self, scores: Any, setting: float) -> Any:
        """What is below the k-th largest of the row goes."""
        count = int(setting)
        if not 0 < count < scores.shape[-1]:
            return scores
        floor = scores.topk(count, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
        return scores.masked_fill(scores < floor, -np.inf)

    def limit(self, setting: float) -> NDArray[Any]:
        """How many."""
        return np.array([setting or BEYOND], dtype=self.kind)


class TopP(Cut):
    """The smallest set of likeliest tokens that holds this share of probability; the likeliest always stays.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751).
    """

    name, off, kind = "top_p", 1, "float32"

    def keep(self, scores: Logits, setting: float) -> Logits:
        """Tokens go before which likelier ones already hold the share."""
        if setting >= 1:
            return scores
        order = np.argsort(-scores, axis=-1, kind="stable")
        ranked = np.take_along_axis(scores, order, axis=-1)
        weight = np.exp(ranked - ranked[..., :1])
        held = np.cumsum(weight, axis=-1) - weight  # by likelier tokens
        total = weight.sum(axis=-1, keepdims=True)
        kept = np.where(held < self.limit(setting) * total, ranked, np.float32(-np.inf))
        result = np.empty_like(scores)
        np.put_along_axis(result, order, kept, axis=-1)
        return result

    def keep_in_graph(self, builder: GraphBuilder, scores: Any, limit: Any) -> Any:
        """TopK sorts, CumSum adds up."""
        last = builder.numbers("last", -1)
        width = builder.add("Shape", [scores], "whole_width", start=2, end=3)
        ranked, order = builder.node("TopK", [scores, width], "ranked", outputs=2, attributes={"axis": -1})
        top = builder.add("ReduceMax", [ranked, last], "top", keepdims=1)
        weight = builder.add("Exp", [builder.add("Sub", [ranked, top], "below_top")], "weight")
        summed = builder.add("CumSum", [weight, builder.numbers("along", -1)], "summed")
        held = builder.add("Sub", [summed, weight], "held_by_likelier")
        total = builder.add("ReduceSum", [weight, last], "total_weight", keepdims=1)
        kept = builder.add("Less", [held, builder.add("Mul", [total, limit], "share")], "kept")
        cut = builder.add("Where", [kept, ranked, lowest(builder)], "cut")
        return builder.add("ScatterElements", [scores, order, cut], "nucleus", axis=-1)

    def keep_on_device(self, scores: Any, setting: float) -> Any:
        """Tokens go before which likelier ones already hold the share."""
        if setting >= 1:
            return scores
        ranked, order = scores.sort(dim=-1, descending=True, stable=True)
        weight = (ranked - ranked[..., :1]).exp()
        held = weight.cumsum(dim=-1) - weight  # by likelier tokens
        share = float(self.limit(setting)) * weight.sum(dim=-1, keepdim=True)
        return scores.scatter(-1, order, ranked.masked_fill(held >= share, -np.inf))

    def limit(self, setting: float) -> NDArray[Any]:
        """The share, as float32 can hold it."""
        return np.array(max(setting, SMALLEST_SHARE) if setting < 1 else BEYOND, dtype=self.kind)


# In the order in which they are applied.
CUTS: tuple[Cut, ...] = (TopK(), TopP())


def keep(scores: Logits, cuts: dict[str, float]) -> Logits:
    """Scores (..., V) after all cuts, by their names."""
    for cut in CUTS:
        if cut.name in cuts:
            scores = cut.keep(scores, cuts[cut.name])
    return scores


def limits_of(cuts: dict[str, float]) -> dict[str, NDArray[Any]]:
    """What a graph reads of each cut, by name."""
    return {cut.name: cut.limit(cuts.get(cut.name, cut.off)) for cut in CUTS}


def lowest(builder: GraphBuilder) -> Any:
    """Minus infinity."""
    return builder.initializer("lowest", np.full((1, 1, 1), -np.inf, dtype=np.float32))
