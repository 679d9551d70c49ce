"""Which layer of the reference each layer of a model was: found by the rows of weights that they share.

Letters: L layers of a model, M layers of the reference, n rows that are compared, F rows of a layer, D width.

Pruning keeps some rows of a layer's matrices as they are, and distillation moves them little: a kept layer's rows have
near copies in the layer that it was, and in no other. The order of layers never changes, so the layers are matched by
the best ascending assignment (dynamic programming, as sequences are aligned).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import QuantizedLinear
from compress.passes import PassError

ROWS = 64  # of a layer that are looked up in the reference
LEAST_LIKENESS = 0.5  # mean cosine; rows of unrelated layers stay below in any but the narrowest model


def depths(transformer: TokenTransformer, reference: TokenTransformer, removed: Sequence[int] = ()) -> tuple[int, ...]:
    """For each layer of a model its layer of the reference; `removed` are those that it no longer has, where known.

    Raises:
        PassError: the numbers do not add up, or a layer is like none of the reference's.
    """
    own, theirs = len(transformer.blocks), len(reference.blocks)
    kept = tuple(index for index in range(theirs) if index not in removed)
    if removed and (len(kept) != own or len(set(removed)) < len(removed) or max(removed) >= theirs):
        raise PassError(
            f"removed {list(removed)}: the reference has {theirs} layers and the model {own}; name the "
            f"{max(0, theirs - own)} that it no longer has, from 0 to {theirs - 1}"
        )
    if len(kept) == own:
        return kept
    if own > theirs:
        raise PassError(f"the model has {own} layers, the reference {theirs}; it can have no more")
    alike = torch.stack([likenesses(block, reference) for block in transformer.blocks])  # (L, M)
    found = ascending(alike)
    for index, depth in enumerate(found):
        if alike[index, depth] < LEAST_LIKENESS:
            nearest = int(alike[index].argmax())
            raise PassError(
                f"layer {index} is like no layer of the reference (the nearest is {nearest}, cosine "
                f"{float(alike[index, nearest]):.2f}); say by removed which of its layers the model no longer has"
            )
    return found


def likenesses(block: nn.Module, reference: TokenTransformer) -> Tensor:
    """Mean over a layer's rows of the largest cosine with a row of each of the reference's layers (M,)."""
    rows = unit_rows(block)[:ROWS]  # (n, D)
    return torch.stack([(rows @ unit_rows(other).T).amax(dim=1).mean() for other in reference.blocks])


def unit_rows(block: nn.Module) -> Tensor:
    """Rows (F, D) of the feed-forward network's entry, of length 1."""
    up = block.get_submodule("ffn.up")
    weight = up.dequantized() if isinstance(up, QuantizedLinear) else up.get_parameter("weight").detach()
    return functional.normalize(weight.float(), dim=1)


def ascending(alike: Tensor) -> tuple[int, ...]:
    """Columns, one larger than the other, that make the sum of a table's entries (L, M) largest, one for each row."""
    rows, columns = alike.shape
    best = torch.full((rows + 1, columns + 1), -torch.inf)
    best[0] = 0.0
    for row in range(rows):
        for column in range(columns):
            best[row + 1, column + 1] = torch.maximum(best[row + 1, column], best[row, column] + alike[row, column])
    found, column = [], columns
    for row in range(rows, 0, -1):
        while best[row, column] == best[row, column - 1]:
            column -= 1
        column -= 1
        found.append(column)
    return tuple(reversed(found))
