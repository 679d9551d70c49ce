"""Stand-ins for tensors that a checkpoint does not hold, so that all that are missing can be counted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.models.checkpoints.checkpoint import Checkpoint


class Absent(Tensor):
    """A tensor that is missing: whatever is computed of it is missing too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.chunk, Tensor.split):
            parts = args[1]
            return [absent() for _ in range(parts if isinstance(parts, int) else len(parts))]
        return absent()


def absent() -> Tensor:
    """Such a tensor."""
    return torch.empty(0, device="meta").as_subclass(Absent)


class Lenient(Checkpoint):
    """A planned checkpoint that gives a stand-in for each tensor that it does not hold, and keeps the names."""

    def __init__(self, planned: Checkpoint) -> None:
        super().__init__(planned.path, planned.weights, planned.config, planned._entries)
        self.planned_tensors = planned
        self.missing: set[str] = set()
        self.read: set[str] = set()

    @property
    def is_planned(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Tensor:
        if name in self:
            self.read.add(name)
            return self.planned_tensors[name]
        self.missing.add(name)
        return absent()
