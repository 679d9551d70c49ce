"""Read state dicts from disk safely, and check names, shapes and values before anything is built on them."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.settings import InputError

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # each can be turned into the others


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle that is a plain state dict (nothing in it is executed).

    Raises:
        InputError: the file is missing, truncated, or a pickle of anything but tensors by name.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file, truncated or damaged ({error})") from error
    if path.suffix not in PICKLES:
        raise InputError(f"{path}: unknown kind of checkpoint; known: .safetensors, {', '.join(PICKLES)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, or is damaged; nothing in it was executed; "
            "save a plain state dict (name to tensor) or safetensors"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in a dozen ways
        raise InputError(f"{path}: not a readable checkpoint, truncated or damaged ({str(error)[:120]})") from error
    if isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        return dict(state)
    raise InputError(f"{path}: holds {type(state).__name__}, not a plain state dict of tensors by name")


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a state dict whose names, shapes, number formats or values are not what the config says.

    Raises:
        InputError: a missing or surplus name, another shape or number format, NaN or Inf; the tensor is named.
    """
    for name, tensor in wanted.items():
        if name not in state:
            close = difflib.get_close_matches(name, [other for other in state if other not in wanted], n=1)
            hint = f"it holds '{close[0]}' instead" if close else "the file ends early or is of another model"
            raise InputError(f"{path}: tensor '{name}' is missing; {hint}")
        if state[name].shape != tensor.shape:
            raise InputError(
                f"{path}: tensor '{name}' is {tuple(state[name].shape)}; its config says {tuple(tensor.shape)}"
            )
        if state[name].dtype != tensor.dtype and not {state[name].dtype, tensor.dtype} <= FLOATS:
            raise InputError(
                f"{path}: tensor '{name}' is {words(state[name].dtype)}; its config says {words(tensor.dtype)}"
            )
    for name, tensor in state.items():
        if name not in wanted:
            raise InputError(f"{path}: tensor '{name}' is not part of the model its config describes")
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            count = int((~torch.isfinite(tensor.float())).sum())
            raise InputError(f"{path}: tensor '{name}' holds {count} NaN or Inf values; the checkpoint is unusable")


def words(dtype: torch.dtype) -> str:
    """A number format as people write it."""
    return str(dtype).removeprefix("torch.")
