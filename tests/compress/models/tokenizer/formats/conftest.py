"""Golden cases of the published tokenizers: small checkpoints and what the original implementation made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parents[4] / "data"


class Golden(NamedTuple):
    """A checkpoint's tensors, its config, and arrays of the original implementation."""

    state: dict[str, Tensor]
    config: dict[str, Any]
    arrays: dict[str, NDArray]


@pytest.fixture(scope="session")
def golden(golden_arrays):
    """A golden case by its folder's name."""

    def load(name: str) -> Golden:
        folder = DATA / "golden" / name
        safe = folder / "checkpoint.safetensors"
        state = load_file(safe) if safe.exists() else torch.load(folder / "checkpoint.pt", weights_only=True)
        config = json.loads((folder / "config.json").read_text())
        return Golden(state.get("model", state), config, golden_arrays(name))

    return load


@pytest.fixture(scope="session")
def golden_arrays():
    """The arrays of a golden case by its folder's name."""

    def load(name: str) -> dict[str, NDArray]:
        with np.load(DATA / "golden" / name / "golden.npz") as arrays:
            return dict(arrays.items())

    return load


@pytest.fixture(scope="session")
def published():
    """Tensors without values of every published size of a format, by the size's name."""

    def load(name: str) -> dict[str, dict[str, Tensor]]:
        sizes = json.loads((DATA / "published" / f"{name}.json").read_text())
        return {
            size: {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
            for size, shapes in sizes.items()
        }

    return load


@pytest.fixture
def unit_pictures():
    """Golden pictures (B, C, H, W) in [-1, 1] or [0, 1] as the uint8 (B, H, W, C) that they round to."""

    def convert(values: NDArray[np.float32], low: float) -> NDArray[np.uint8]:
        scaled = (values.transpose(0, 2, 3, 1).astype(np.float64) - low) / (1 - low)
        return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)

    return convert
