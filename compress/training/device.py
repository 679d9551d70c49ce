"""Where a training computes, and in which precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from compress.core.settings import InputError

Precision = Literal["float32", "tf32", "bfloat16"]


def find_device(name: Literal["cpu", "cuda"], where: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: this PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}: cuda is asked for, but this PyTorch sees no GPU; use cpu")
    return torch.device(name)


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
