"""Dropout of some rows of a batch as it is in the whole batch, so that it is the same however rows are shared."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from compress.training.world import World


class RowsOfBatch(TorchDispatchMode):
    """Draw the masks of dropout for a batch of `count` rows, and use those of `rows`.

    PyTorch's dropout on the CPU, and its attention with dropout there, draw their masks by `bernoulli_`, with the rows
    of the batch in the first dimension.
    """

    def __init__(self, rows: slice, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows, self.count = rows, count

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the operator; of a mask's, for the whole batch."""
        if function is not torch.ops.aten.bernoulli_.float:
            return function(*args, **(kwargs or {}))
        mask, *rest = args
        whole = function(mask.new_empty((self.count, *mask.shape[1:])), *rest, **(kwargs or {}))
        return mask.copy_(whole[self.rows])


def dropout_of(world: World, count: int, device: torch.device) -> AbstractContextManager[object]:
    """What a process computes its rows of a batch of `count` in.

    On GPUs dropout is inside of other kernels: there each process draws masks of its own (`seeded`).
    """
    if world.size == 1 or device.type != "cpu":
        return contextlib.nullcontext()
    return RowsOfBatch(world.rows(count), count)


def seeded(seed: int, world: World, device: torch.device) -> None:
    """Seed PyTorch: the CPU the same in every process, GPUs so that no two draw the same masks."""
    torch.manual_seed(seed)
    if world.rank and device.type == "cuda":
        torch.cuda.manual_seed(seed + (world.rank << 16))
