"""Where a training computes, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from compress.core.settings import InputError
from compress.training.world import ALONE, World

Precision = Literal["float32", "tf32", "bfloat16"]


def find_device(name: Literal["cpu", "cuda"], where: str, world: World = ALONE) -> torch.device:
    """The device of that name; each of several processes of a machine has a GPU of its own.

    Raises:
        InputError: this PyTorch sees no GPU, or fewer than there are processes.
    """
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise InputError(f"{where}: cuda is asked for, but this PyTorch sees no GPU; use cpu")
    if world.size == 1:
        return torch.device(name)
    if world.local_rank >= (seen := torch.cuda.device_count()):
        raise InputError(
            f"{where}: process {world.local_rank + 1} of this machine has no GPU, PyTorch sees {seen}; start {seen}"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device(name, world.local_rank)


@contextlib.contextmanager
def computing(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in this precision: products of float32 as they are, rounded to TF32 (GPUs), or in bfloat16 (autocast).

    Weights, averages and the optimizer's state are float32 in each of them. A backward pass outside of it has the types
    that autocast chose, but TF32 only in convolutions, where cuDNN has it by default.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
