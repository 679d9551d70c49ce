"""Which heads and units go, over all layers together, so that a share of the parameters or of a step's time stays.

What goes first is what is expected to cost least for each parameter, or each millisecond, that it frees. Units go a
whole block at a time, so that a layer keeps a multiple of them; every layer keeps its best head and its best block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.pruning import Structure

Size = Callable[[int, int, int], float]


@dataclass(frozen=True)
class Piece:
    """Groups of one layer's structure that go together: how much that frees (of what is scarce), and what it costs."""

    structure: int
    layer: int
    groups: Tensor
    frees: float
    score: float

    @property
    def density(self) -> float:
        """Cost for each parameter, or each millisecond; without end where nothing is freed."""
        return self.score / self.frees if self.frees > 0 else math.inf

    def with_next(self, other: Piece) -> Piece:
        """This piece and the next of its layer, together."""
        groups = torch.cat([self.groups, other.groups])
        return replace(self, groups=groups, frees=self.frees + other.frees, score=self.score + other.score)


def removable(
    structures: Sequence[tuple[Structure, int]], scores: Sequence[Sequence[Tensor]], size: Size
) -> list[Piece]:
    """All that may go, the cheapest for what it frees first.

    `structures` come with how many groups make a block; `scores` are those of each structure's groups, for each layer;
    `size` is that of so many groups of a structure in a layer, by their numbers. Within a layer the least important
    groups go first. Where what comes after one piece is cheaper, because a step of time lies behind it, both go
    together, so that the order within a layer is kept.
    """
    found = []
    for number, ((_, block), layers) in enumerate(zip(structures, scores, strict=True)):
        for index, layer in enumerate(layers):
            pieces: list[Piece] = []
            order = layer.argsort(stable=True)
            spare = max(0, len(order) - block)  # the best block stays
            first = spare % block or block  # so that what is left is a multiple
            cuts = [0, *range(first, spare, block), spare] if spare else [0]
            for start, end in itertools.pairwise(cuts):
                groups = order[start:end]
                frees = size(number, index, len(order) - start) - size(number, index, len(order) - end)
                pieces.append(Piece(number, index, groups, frees, float(layer[groups].double().sum())))
                while len(pieces) > 1 and pieces[-1].density < pieces[-2].density:
                    last = pieces.pop()
                    pieces.append(pieces.pop().with_next(last))
            found += pieces
    return sorted(found, key=lambda piece: piece.density)


def group_sizes(transformer: TokenTransformer, structure: Structure) -> list[int]:
    """Parameters of one group of each layer."""
    state = transformer.state_dict()
    return [
        sum(state[f"blocks.{index}.{member.name}"].numel() for member in structure.members(transformer.config, layer))
        // structure.count(layer)
        for index, layer in enumerate(transformer.config.layers)
    ]


def cheapest(pieces: Sequence[Piece], wanted: float) -> list[Piece]:
    """The first pieces that free so much together; all where they do not."""
    gone, freed = [], 0.0
    for piece in pieces:
        if freed >= wanted:
            break
        gone.append(piece)
        freed += piece.frees
    return gone


def left(counts: Sequence[int], gone: Sequence[Piece], structure: int) -> list[Tensor]:
    """Indices of the groups of a structure that each layer keeps, of so many."""
    stays = [torch.ones(count, dtype=torch.bool) for count in counts]
    for piece in gone:
        if piece.structure == structure:
            stays[piece.layer][piece.groups] = False
    return [each.nonzero().flatten() for each in stays]
