"""Which heads and units go, over all layers together, so that a share of the parameters stays.

What goes first is what is expected to cost least for each parameter that it frees. Units go a whole block at a time, so
that a layer keeps a multiple of them; every layer keeps its best head and its best block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.pruning import Structure


@dataclass(frozen=True)
class Piece:
    """Groups of one layer's structure that go together: how many parameters that frees, and what it costs."""

    structure: int
    layer: int
    groups: Tensor
    parameters: int
    score: float

    @property
    def density(self) -> float:
        """Cost for each parameter."""
        return self.score / self.parameters


def removable(
    transformer: TokenTransformer, structures: Sequence[tuple[Structure, int]], scores: Sequence[Sequence[Tensor]]
) -> list[Piece]:
    """All that may go, the cheapest for each parameter first.

    `structures` come with how many groups make a block; `scores` are those of each structure's groups, for each layer.
    Within a layer the least important groups go first, because all have the same size.
    """
    found = []
    for number, ((structure, block), layers) in enumerate(zip(structures, scores, strict=True)):
        sizes = group_sizes(transformer, structure)
        for index, layer in enumerate(layers):
            order = layer.argsort(stable=True)
            spare = max(0, len(order) - block)  # the best block stays
            first = spare % block or block  # so that what is left is a multiple
            cuts = [0, *range(first, spare, block), spare] if spare else [0]
            for start, end in itertools.pairwise(cuts):
                groups = order[start:end]
                score = float(layer[groups].double().sum())
                found.append(Piece(number, index, groups, sizes[index] * len(groups), score))
    return sorted(found, key=lambda piece: piece.density)


def group_sizes(transformer: TokenTransformer, structure: Structure) -> list[int]:
    """Parameters of one group of each layer."""
    state = transformer.state_dict()
    return [
        sum(state[f"blocks.{index}.{member.name}"].numel() for member in structure.members(transformer.config, layer))
        // structure.count(layer)
        for index, layer in enumerate(transformer.config.layers)
    ]


def cheapest(pieces: Sequence[Piece], parameters: int) -> list[Piece]:
    """The first pieces that free so many parameters together; all where they do not."""
    gone, freed = [], 0
    for piece in pieces:
        if freed >= parameters:
            break
        gone.append(piece)
        freed += piece.parameters
    return gone


def left(counts: Sequence[int], gone: Sequence[Piece], structure: int) -> list[Tensor]:
    """Indices of the groups of a structure that each layer keeps, of so many."""
    stays = [torch.ones(count, dtype=torch.bool) for count in counts]
    for piece in gone:
        if piece.structure == structure:
            stays[piece.layer][piece.groups] = False
    return [each.nonzero().flatten() for each in stays]
