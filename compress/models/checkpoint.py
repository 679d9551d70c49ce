"""Read state dicts from disk safely, and check names, shapes and values before anything is built on them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.settings import InputError, nearest

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle that is a plain state dict (nothing in it is executed).

    Raises:
        InputError: the file is missing, truncated, or a pickle of anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in PICKLES:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values()):
                return dict(state)
            raise InputError(f"{path}: holds {type(state).__name__}, not a plain state dict of tensors by name")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: there is no such checkpoint file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file, truncated or damaged ({error})") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: this pickle holds more than tensors and is not executed; "
            "save a plain state dict (name to tensor) or safetensors"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not a readable checkpoint, truncated or damaged ({str(error)[:120]})") from error
    raise InputError(f"{path}: unknown kind of checkpoint; known: .safetensors, {', '.join(PICKLES)}")


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a state dict whose names, shapes or values are not what the config says.

    Raises:
        InputError: a missing or surplus name, another shape, NaN or Inf; the tensor is named.
    """
    for name, tensor in wanted.items():
        if name not in state:
            surplus = [other for other in state if other not in wanted]
            hint = nearest(name, surplus) if surplus else "the file ends early or is of another model"
            raise InputError(f"{path}: tensor '{name}' is missing; {hint}")
        if state[name].shape != tensor.shape:
            raise InputError(
                f"{path}: tensor '{name}' is {tuple(state[name].shape)}; its config says {tuple(tensor.shape)}"
            )
    for name, tensor in state.items():
        if name not in wanted:
            raise InputError(f"{path}: tensor '{name}' is not part of the model its config describes")
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            count = int((~torch.isfinite(tensor.float())).sum())
            raise InputError(f"{path}: tensor '{name}' holds {count} NaN or Inf values; the checkpoint is unusable")
