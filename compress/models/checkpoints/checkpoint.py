"""Checkpoints from disk, safely: read one tensor at a time, checked for names, shapes, formats and values."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.core.settings import InputError, shown
from compress.core.strict_json import read_json
from compress.models.checkpoints.containers import PICKLES, SAFETENSORS, Entry, entries, opened

CONFIG = "config.json"
PIPELINE = ("model_index.json", "transformer")  # what marks a pipeline of diffusers, and the part that draws tokens
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # each can be turned into the others
# What a folder may hold, in order of preference; a pattern with * is a sharded checkpoint's index.
LAYOUTS = (
    "model.safetensors",
    "*.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    *(f"checkpoint{suffix}" for suffix in (SAFETENSORS, *PICKLES)),
)
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


def weight_files(path: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """The index if the checkpoint is sharded, and its weights files.

    Raises:
        InputError: there is none, or a folder's files leave a choice.
    """
    if not path.is_dir():
        return None, (path,)
    for layout in LAYOUTS:
        matches = sorted(path.glob(layout))
        if len(matches) > 1:
            raise ambiguous(path, matches)
        if matches and layout.endswith(".index.json"):
            shards = sorted(set(read_index(matches[0]).values()))
            return matches[0], tuple(path / shard for shard in shards)
        if matches:
            return None, (matches[0],)
    files = sorted(each for each in path.iterdir() if each.suffix in (SAFETENSORS, *PICKLES) and each.is_file())
    if len(files) == 1:
        return None, (files[0],)
    if files:
        raise ambiguous(path, files)
    raise InputError(f"{path}: holds no weights; looked for files that end in {SAFETENSORS}, {', '.join(PICKLES)}")


def ambiguous(path: Path, files: list[Path]) -> InputError:
    """The complaint that a folder's files leave a choice."""
    return InputError(f"{path}: holds {', '.join(file.name for file in files)}; give the path of the one to read")


def read_index(index: Path) -> dict[str, str]:
    """Which file of a sharded checkpoint holds each tensor."""
    content = read_mapping(index)
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index}: 'weight_map' is missing; it says which file holds each tensor")
    for name, shard in shards.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{index}: {shown(name)} is said to be in {shown(shard)}, which is no file beside it")
    return shards


def shard_entries(index: Path, weights: str | None) -> dict[str, Entry]:
    """The tensors of a sharded checkpoint, each in the file that the index says."""
    if weights is not None:
        raise InputError(f"{index}: holds no '{weights}'; a sharded checkpoint holds one set of weights")
    shards = read_index(index)
    opened: dict[str, dict[str, Entry]] = {}
    for shard in sorted(set(shards.values())):
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard}: this shard is missing; {index.name} lists it")
        opened[shard] = entries(index.parent / shard, wrapped=False)
    for name, shard in shards.items():
        if name not in opened[shard]:
            raise InputError(f"{index.parent / shard}: tensor '{name}' is missing; {index.name} says it is here")
    return {name: opened[shard][name] for name, shard in shards.items()}


def read_config(path: Path) -> dict[str, Any]:
    """config.json as it is; empty if there is none."""
    return read_mapping(path) if path.exists() else {}


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that is one mapping.

    Raises:
        InputError: it is something else, damaged, too large, or says a key twice.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not a mapping")
    return content


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
