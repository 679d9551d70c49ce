"""Checkpoints from disk, safely: read one tensor at a time, checked for names, shapes, formats and values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.checkpoints.containers import Entry, entries, opened
from compress.models.checkpoints.filling import FLOATS, check_values, words, words_of
from compress.models.checkpoints.layouts import CONFIG, read_config, shard_entries, weight_files

PIPELINE = ("model_index.json", "transformer")  # what marks a pipeline of diffusers, and the part that draws tokens
WRAPPING = "module."  # what DistributedDataParallel and AveragedModel put before every name
# Parts of names that torch.compile, FSDP and activation checkpoints put in wherever they wrap a module.
WRAPPERS_INSIDE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module"}
COUNTERS = ("n_averaged", "num_updates", "decay")  # that averaged weights keep beside the tensors
PREFIX_PARTS = 3  # of a prefix before all names, at most


class MissingTensorError(InputError):
    """A tensor that is asked for is not in the checkpoint."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(f"{path}: tensor '{name}' is missing")
        self.name = name


class Checkpoint(Mapping[str, Tensor]):
    """A published checkpoint: tensors by name, of which each is read from disk when it is asked for, and then alone.

    Nothing is kept: asking twice reads twice. Only pickles from before PyTorch 1.6, compressed ones and those of
    another byte order are read whole when they are opened. No code in a pickle is ever executed.
    """

    def __init__(
        self,
        path: Path,
        weights: tuple[Path, ...],
        config: dict[str, Any],
        found: Mapping[str, Entry],
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path  # as it was given: a file or a folder
        self.weights = weights  # the files that hold the tensors
        self.config = config  # config.json with the overrides; empty if there is none
        self._entries = dict(found)
        self.notes = notes  # what was chosen where there was a choice, and what was taken off the names, in words

    @classmethod
    def open(cls, path: Path, overrides: Mapping[str, Any] | None = None, weights: str | None = None) -> Checkpoint:
        """Find the tensors of a weights file or folder, and config.json beside them; no tensor is read.

        `overrides` replace keys of config.json. `weights` names the set to take from a training file that holds several
        (``ema``, ``vae_local``); without it the usual one is taken.

        Raises:
            InputError: nothing is there, or not exactly one thing to read; a file is damaged, or a pickle holds code.
        """
        part = path / PIPELINE[1] if (path / PIPELINE[0]).is_file() else path
        folder = part if part.is_dir() else part.parent
        index, files = weight_files(part)
        found, notes = opened(files[0], weights=weights) if index is None else (shard_entries(index, weights), ())
        config = {**read_config(folder / CONFIG), **(overrides or {})}
        return cls(path, files, config, without_wrapping(found, path), notes)

    def __getitem__(self, name: str) -> Tensor:
        return self.entry(name).read()

    def entry(self, name: str) -> Entry:
        """Where a tensor lies.

        Raises:
            MissingTensorError: there is none of this name.
        """
        if name not in self._entries:
            raise MissingTensorError(self.path, name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # the inherited one would read the tensor

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}: {len(self)} tensors, {self.bytes} bytes)"

    def shape(self, name: str, rank: int | None = None) -> tuple[int, ...]:
        """A tensor's shape, without reading it; with `rank` it has that many axes, none of them empty.

        Raises:
            MissingTensorError: there is none of this name.
            InputError: it has another number of axes, or no numbers.
        """
        shape = self.entry(name).shape
        if rank is not None and (len(shape) != rank or 0 in shape):
            raise InputError(f"{self.path}: tensor '{name}' is {shape}; a model's has {rank} axes, none of them empty")
        return shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's number format on disk, without reading it."""
        return self.entry(name).dtype

    @property
    def is_planned(self) -> bool:
        """Whether nothing is ever read."""
        return False

    @property
    def bytes(self) -> int:
        """What all tensors take on disk; one that has two names counts twice."""
        return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in self._entries.values())

    def numbers(self, prefix: str) -> int:
        """How many i there are in names that begin with `prefix.i.`: the layers of `layers`.

        Raises:
            InputError: they are not 0 to the last.
        """
        pattern = re.compile(re.escape(prefix) + r"\.([0-9]{1,6})\.")
        found = {int(match[1]) for name in self if (match := pattern.match(name))}
        absent = next((index for index in range(len(found)) if index not in found), None)
        if absent is not None:
            raise InputError(
                f"{self.path}: no tensor begins with '{prefix}.{absent}.', but others with '{prefix}.{max(found)}.'; "
                "the file is cut, or a part of the checkpoint"
            )
        return len(found)

    def stating(self, config: dict[str, Any]) -> Checkpoint:
        """The same tensors with another config."""
        return type(self)(self.path, self.weights, config, self._entries, self.notes)

    def prefixes(self) -> list[str]:
        """What stands before names, up to PREFIX_PARTS parts of it with their dots: ``model.``, ``model.net.``."""
        found = {
            ".".join(parts[:count]) + "."
            for parts in (name.split(".") for name in self)
            for count in range(1, min(PREFIX_PARTS, len(parts) - 1) + 1)
        }
        return sorted(found)

    def behind(self, prefix: str) -> Checkpoint:
        """The tensors whose names begin with a prefix, without it.

        Raises:
            InputError: there is none.
        """
        found = {name.removeprefix(prefix): each for name, each in self._entries.items() if name.startswith(prefix)}
        found.pop("", None)
        if not found:
            raise InputError(f"{self.path}: no tensor's name begins with {shown(prefix)}")
        left = len(self) - len(found)
        note = f"the names behind '{prefix}'" + (f"; {left} other tensors are left" if left else "")
        return type(self)(self.path, self.weights, self.config, found, (*self.notes, note))

    def planned(self) -> Planned:
        """The same names, shapes and formats, but nothing is ever read."""
        return Planned(self.path, self.weights, self.config, self._entries, self.notes)

    def renamed(self, rename: Callable[[str], str | None]) -> Checkpoint:
        """The same tensors under other names; those whose new name is None are left out.

        Raises:
            InputError: two tensors get the same name.
        """
        found: dict[str, Entry] = {}
        olds: dict[str, str] = {}
        for name, entry in self._entries.items():
            new = rename(name)
            if new is None:
                continue
            if new in found:
                raise InputError(f"{self.path}: tensors '{olds[new]}' and '{name}' are both '{new}'")
            found[new], olds[new] = entry, name
        return type(self)(self.path, self.weights, self.config, found, self.notes)


class Planned(Checkpoint):
    """A checkpoint whose tensors are on the meta device: enough to see whether a model would take them."""

    @property
    def is_planned(self) -> bool:
        return True

    def __getitem__(self, name: str) -> Tensor:
        return torch.empty(self.shape(name), dtype=self.dtype(name), device="meta")


class Weights(Checkpoint):
    """A checkpoint as a family reads it: each tensor is of finite floats, and `last` is the one that was read last."""

    def __init__(self, inner: Checkpoint) -> None:
        super().__init__(inner.path, inner.weights, inner.config, inner._entries)
        self.inner = inner
        self.last = ""

    @property
    def is_planned(self) -> bool:
        return self.inner.is_planned

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.inner[name]
        self.last = name
        if tensor.dtype not in FLOATS:
            raise InputError(f"{self.path}: tensor '{name}' is {words(tensor.dtype)}; weights are {words_of(FLOATS)}")
        check_values(name, tensor, self.path)
        return tensor


def without_wrapping(found: dict[str, Entry], path: Path) -> dict[str, Entry]:
    """The tensors without the modules that training wraps around others, anywhere in a name, and without its counters.

    Raises:
        InputError: two tensors get the same name.
    """
    plain: dict[str, Entry] = {}
    for name, entry in found.items():
        new = ".".join(part for part in name.split(".") if part not in WRAPPERS_INSIDE)
        if new in plain:
            raise InputError(f"{path}: two tensors are '{new}' without the modules that training wraps around others")
        if new.rpartition(".")[2] not in COUNTERS or math.prod(entry.shape) != 1:
            plain[new] = entry
    while plain and all(name.startswith(WRAPPING) and name != WRAPPING for name in plain):
        plain = {name.removeprefix(WRAPPING): entry for name, entry in plain.items()}
    return plain


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle that is a plain state dict (nothing in it is executed).

    Raises:
        InputError: the file is missing, truncated, or a pickle of anything but tensors by name.
    """
    return dict(read_tensors(path))


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The same, one tensor at a time."""
    for name, entry in entries(path, wrapped=False).items():
        yield name, entry.read()
