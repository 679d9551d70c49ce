"""Small files of weights, and how a checkpoint of them is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint

STATE = {
    "layers.0.weight": torch.arange(6.0).reshape(2, 3),
    "layers.1.weight": torch.arange(6.0).reshape(2, 3).half() + 10,
    "norm.weight": torch.arange(3).int(),
}
OTHER = {"other.weight": torch.ones(1)}


def write(path: Path, state: dict = STATE) -> Path:
    """Save a state dict in the format of the suffix."""
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def check(checkpoint: Checkpoint, state: dict = STATE) -> None:
    """The checkpoint holds exactly these tensors."""
    assert set(checkpoint) == set(state)
    assert len(checkpoint) == len(state)
    for name, tensor in state.items():
        assert name in checkpoint
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype == checkpoint[name].dtype
        assert torch.equal(checkpoint[name], tensor)


def complaint(path: Path, **options: str) -> str:
    """What opening says, without the path of the scratch folder."""
    with pytest.raises(InputError) as caught:
        Checkpoint.open(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))
