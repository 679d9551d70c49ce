"""What pruning the heads or units of one layer alone adds to the KL, and which products become smaller.

The least important groups are closed where their layer's exit reads them, which is what removing them without a repair
does (where a norm spans all heads: with the norm set right, as `prune-heads` does).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.tokens import TokenSet
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.alone import Changes
from compress.passes.shared.importance import GroupMask, group_masks, masked_groups, taylor
from compress.passes.shared.pruning import HEADS, UNITS, Structure, best

STRUCTURES = (HEADS, UNITS)


@dataclass(frozen=True)
class Pruning:
    """The heads or the units of one layer, some of which go."""

    index: int
    structure: Structure
    removed: int
    of: int

    @property
    def name(self) -> str:
        """The layer."""
        return f"blocks.{self.index}"

    def products(self, transformer: TokenTransformer) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Inputs and outputs of each linear layer that becomes smaller, before and after."""
        config = transformer.config
        for member in self.structure.members(config, config.layers[self.index]):
            name, _, kind = member.name.rpartition(".")
            linear = transformer.blocks[self.index].get_submodule(name) if kind == "weight" else None
            if isinstance(linear, nn.Linear):
                outputs, inputs = linear.weight.shape
                gone = self.removed * member.width
                after = (inputs, outputs - gone) if member.axis == 0 else (inputs - gone, outputs)
                yield (inputs, outputs), after


def prunings(transformer: TokenTransformer, ratio: float) -> list[Pruning]:
    """The heads and units of each layer that lose this share, at least one; one alone stays."""
    found = []
    for index, layer in enumerate(transformer.config.layers):
        for structure in STRUCTURES:
            count = structure.count(layer)
            removed = min(max(1, round(ratio * count)), count - 1)
            if removed:
                found.append(Pruning(index, structure, removed, count))
    return found


def scores_of(transformer: TokenTransformer, tokens: TokenSet) -> dict[str, list[torch.Tensor]]:
    """The importance of each group of every layer, by the structure's noun, as `score: taylor` has it."""
    masks = [mask for structure in STRUCTURES for mask in group_masks(transformer, structure)]
    scores = taylor(transformer, masks, tokens, lambda done, total, values: None)
    layers = len(transformer.config.layers)
    return {
        structure.noun: scores[number * layers : (number + 1) * layers] for number, structure in enumerate(STRUCTURES)
    }


def kl_of(changes: Changes, pruning: Pruning, scores: torch.Tensor) -> NDArray[np.float64]:
    """KL of each picture (N,), nats, without the groups of least score (G,)."""
    changes.go_to(pruning.index)
    (kept,) = best([scores], [pruning.of - pruning.removed])
    opened = torch.zeros(1, pruning.of)
    opened[0, kept] = 1.0
    mask = GroupMask(pruning.of, inputs=(f"blocks.{pruning.index}.{pruning.structure.exit}",))
    with masked_groups(changes.transformer, [mask], [opened]):
        return changes.kl()
