"""A module on the meta device gets its tensors, each checked for its name, shape, number format and values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.core.settings import InputError

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # each can be turned into the others


def fill(module: nn.Module, pairs: Iterable[tuple[str, Tensor]], path: Path, origin: Callable[[], str] = str) -> None:
    """Give a module on the meta device its parameters and persistent buffers, one tensor at a time.

    `pairs` is best a generator: a tensor is dropped before the next is asked for, so that memory holds the module and
    one tensor. Floats of any width become the module's own (fp32 as a rule), one by one; a tensor that needs no
    conversion becomes the parameter itself. Parameters that the module ties stay tied: one name is enough, and a second
    has to hold the same values. Afterwards no parameter and no persistent buffer is on meta; buffers that are not
    persistent are in no checkpoint, and the caller computes them. `origin` is the name in the file of what was given
    last, for messages.

    Raises:
        InputError: a missing, surplus or repeated name, another shape or number format, NaN or Inf; it is named.
    """
    wanted: dict[str, Tensor] = module.state_dict(keep_vars=True)
    ties: dict[int, list[str]] = {}
    for name, slot in wanted.items():
        ties.setdefault(id(slot), []).append(name)
    given: set[str] = set()
    storages: set[int] = set()
    filled: dict[int, Tensor] = {}
    for name, tensor in pairs:
        if name not in wanted:
            raise surplus(name, (other for other in wanted if other not in given), path)
        if name in given:
            raise InputError(f"{path}: tensor '{name}' comes twice")
        given.add(name)
        slot, said = wanted[name], f"{name}' of '{origin()}" if origin() not in ("", name) else name
        check_format(said, tensor, slot, path)
        value = own(tensor.detach(), slot.dtype, storages)
        check_values(said, value, path)  # as converted: fp64 numbers may overflow in fp32
        del tensor  # the pair that was read may be freed before the next one is
        if id(slot) in filled:
            check_tied(name, value, filled[id(slot)], ties[id(slot)], path)
            continue
        if isinstance(slot, nn.Parameter):
            value = nn.Parameter(value, requires_grad=slot.requires_grad)
        filled[id(slot)] = value
        for alias in ties[id(slot)]:
            owner, _, leaf = alias.rpartition(".")
            setattr(module.get_submodule(owner), leaf, value)
    for name, slot in wanted.items():
        if id(slot) not in filled:
            raise missing(name, (), path)


def own(tensor: Tensor, dtype: torch.dtype, storages: set[int]) -> Tensor:
    """The tensor in this format, contiguous, in memory that no other parameter has; copied only if it must be."""
    value = tensor.to(dtype).contiguous()
    storage = value.untyped_storage()
    # A slice would keep the whole alive, and two slices of one whole would be written to disk twice.
    if storage.data_ptr() in storages or storage.nbytes() != value.numel() * value.itemsize:
        value = value.clone()
    storages.add(value.untyped_storage().data_ptr())
    return value


def check_format(name: str, tensor: Tensor, wanted: Tensor, path: Path) -> None:
    """Refuse another shape, and a number format that cannot be turned into the one that is wanted."""
    if tensor.shape != wanted.shape:
        raise InputError(f"{path}: tensor '{name}' is {tuple(tensor.shape)}; its config says {tuple(wanted.shape)}")
    if tensor.dtype != wanted.dtype and not {tensor.dtype, wanted.dtype} <= FLOATS:
        raise InputError(f"{path}: tensor '{name}' is {words(tensor.dtype)}; its config says {words(wanted.dtype)}")


def check_values(name: str, tensor: Tensor, path: Path) -> None:
    """Refuse NaN and Inf, without a copy of the tensor where PyTorch can do so."""
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
        return
    if tensor.dtype in FLOATS:
        low, high = tensor.aminmax()  # NaN if one number is; `isfinite` would need three temporary copies
        finite = bool(torch.isfinite(low) & torch.isfinite(high))
    else:
        finite = bool(torch.isfinite(tensor.float()).all())
    if not finite:
        count = int((~torch.isfinite(tensor.float())).sum())
        raise InputError(f"{path}: tensor '{name}' holds {count} NaN or Inf values; the checkpoint is unusable")


def check_tied(name: str, value: Tensor, first: Tensor, names: list[str], path: Path) -> None:
    """Refuse two different tensors for one parameter."""
    if not torch.equal(value, first):
        other = next(each for each in names if each != name)
        raise InputError(f"{path}: tensor '{name}' differs from '{other}'; the model uses one for both")


def missing(name: str, others: Iterable[str], path: Path) -> InputError:
    """The complaint that a tensor is not there, with the nearest of the others."""
    return InputError(f"{path}: tensor '{name}' is missing; {near(name, others)}")


def near(name: str, others: Iterable[str]) -> str:
    """What there may be instead of a tensor, by its name."""
    close = difflib.get_close_matches(name, list(others), n=1)
    return f"it holds '{close[0]}' instead" if close else "the file ends early or is of another model"


def surplus(name: str, others: Iterable[str], path: Path) -> InputError:
    """The complaint that a tensor belongs nowhere, with the nearest of those still wanted."""
    close = difflib.get_close_matches(name, list(others), n=1)
    hint = f"; '{close[0]}' would be" if close else ""
    return InputError(f"{path}: tensor '{name}' is not part of the model its config describes{hint}")


def words_of(dtypes: Iterable[torch.dtype]) -> str:
    """Number formats as people write them."""
    return ", ".join(sorted(map(words, dtypes)))


def words(dtype: torch.dtype) -> str:
    """A number format as people write it."""
    return str(dtype).removeprefix("torch.")
