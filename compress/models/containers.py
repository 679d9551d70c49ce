"""Where every tensor of a weights file lies, found without reading one: safetensors, PyTorch's zip files, old pickles.

Tensors are then read one by one through plain file reads. A memory-mapped file would count as the process's own memory
for as long as it is mapped, and a file that shrinks under the mapping would kill the process.
"""

from __future__ import annotations

import argparse
import bisect
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.settings import InputError

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
ZIP_MAGIC = b"PK\x03\x04"
# What training files wrap a state dict in, in the order in which LlamaGen's own sampling code looks; then Halton's and
# VAR's. `ema` is last because that code never takes it: it is read if asked for, or if nothing else is there.
WRAPPERS = (
    "model", "module", "state_dict", "model_state_dict", "trainer.var_wo_ddp", "trainer.vae_local", "ema",
)  # fmt: skip
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One tensor on disk: its format, and where its bytes begin in which file."""

    file: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """How many numbers lie between the first and the last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.span * self.dtype.itemsize

    def read(self) -> Tensor:
        """The tensor, in memory of its own; no other byte of the file is read.

        Raises:
            InputError: the file is gone, or has become shorter since it was opened.
        """
        buffer = torch.empty(self.end - self.offset, dtype=torch.uint8)
        rest = buffer.numpy().data
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(self.offset)
                while rest:  # Linux reads at most 2 GiB in one call
                    count = file.readinto(rest)
                    if not count:
                        raise InputError(f"{self.file}: ends early; it was changed after it was opened")
                    rest = rest[count:]
        except OSError as error:
            raise InputError(f"{self.file}: cannot be read ({error.strerror})") from error
        return buffer.view(self.dtype).as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class Loaded:
    """One tensor of a file that can only be read whole: it is in memory already."""

    tensor: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Its number format."""
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.tensor.shape)

    def read(self) -> Tensor:
        """The tensor itself, not a copy."""
        return self.tensor


Entry = Place | Loaded


def entries(path: Path, *, wrapped: bool = True, weights: str | None = None) -> dict[str, Entry]:
    """Every tensor of one weights file by name, none of them read where the format allows.

    A pickle's state dict may be wrapped (see WRAPPERS) if `wrapped`; `weights` names the wrapper if there are several.

    Raises:
        InputError: the file is missing, truncated, holds no state dict, or more than harmless data.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such checkpoint file")
    if path.suffix == SAFETENSORS:
        if weights is not None:
            raise InputError(f"{path}: holds no '{weights}'; a safetensors file holds one set of weights")
        return dict(safetensors_entries(path))
    if path.suffix not in PICKLES:
        raise InputError(f"{path}: unknown kind of checkpoint; known: {SAFETENSORS}, {', '.join(PICKLES)}")
    try:
        ends = record_ends(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # LlamaGen's `args`; it holds data only
            content = torch.load(path, map_location="cpu" if ends is None else "meta", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: holds more than tensors, or is damaged; nothing in it was executed; "
            "save a plain state dict (name to tensor) or safetensors"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler fail in a dozen ways
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable checkpoint, truncated or damaged ({reason})") from error
    state = unwrap(content, path, weights) if wrapped else content
    if not is_state(state):
        raise InputError(f"{path}: holds {type(state).__name__}, not a plain state dict of tensors by name")
    return {name: locate(name, tensor, path, ends) for name, tensor in state.items()}


def safetensors_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """The places that a safetensors file's header gives; the library checks them against each other and the file."""
    try:
        with safe_open(path, framework="np") as checked:
            names = list(checked.keys())
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable safetensors file, truncated or damaged ({error})") from error
    for name in sorted(names, key=lambda name: header[name]["data_offsets"]):
        entry = header[name]
        if entry["dtype"] not in DTYPES:
            raise InputError(f"{path}: tensor '{name}' is {entry['dtype']}, a number format that is not read")
        shape = tuple(entry["shape"])
        yield name, Place(path, 8 + size + entry["data_offsets"][0], DTYPES[entry["dtype"]], shape, strides_of(shape))


def record_ends(path: Path) -> list[int] | None:
    """Where the records of a PyTorch zip file begin, and where the last one ends; None if it has to be read whole.

    Pickles from before PyTorch 1.6 are no zip files, and only stored records of this machine's byte order can be used
    as they lie (`torch.load` onto the meta device would crash the process on others).
    """
    with path.open("rb") as file:
        if file.read(4) != ZIP_MAGIC:
            return None
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        orders = {archive.read(record) for record in records if record.filename.endswith("/byteorder")}
        if not stored or not orders <= {b"little"}:
            return None
        return [*sorted(record.header_offset for record in records), archive.start_dir]


def locate(name: str, tensor: Tensor, path: Path, ends: list[int] | None) -> Entry:
    """Where a tensor of a pickle lies, checked against the file's records."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{path}: tensor '{name}' is sparse or quantized; save it as a plain tensor")
    if ends is None:
        return Loaded(tensor.detach())
    # `torch.load` onto the meta device leaves this offset for reading a checkpoint's tensors one by one.
    start: int | None = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None:
        raise InputError(f"{path}: tensor '{name}' has no values; it was on the meta device when it was saved")
    offset = start + int(tensor.storage_offset()) * tensor.dtype.itemsize
    place = Place(path, offset, tensor.dtype, tuple(tensor.shape), tuple(map(int, tensor.stride())))
    following = bisect.bisect_right(ends, start)
    if place.span and (following == len(ends) or place.end > ends[following]):
        raise InputError(
            f"{path}: not a readable checkpoint, truncated or damaged ('{name}' is larger than its record)"
        )
    return place


def unwrap(content: Any, path: Path, weights: str | None) -> Any:
    """The state dict in what a training run saved."""
    if weights is None and is_state(content):
        return content
    found = {wrapper: inner for wrapper in WRAPPERS if (inner := at(content, wrapper)) is not None}
    if weights is None:
        return next(iter(found.values()), content)
    for wrapper, inner in found.items():
        if weights in (wrapper, wrapper.split(".")[-1]):
            return inner
    raise InputError(
        f"{path}: holds no '{weights}'; it holds {', '.join(found) or 'one set of weights without a name'}"
    )


def at(content: Any, wrapper: str) -> Any:
    """What lies under a dotted name, None if nothing does."""
    for key in wrapper.split("."):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            return None
        content = content[key]
    return content


def is_state(content: Any) -> bool:
    """Whether this is tensors by name."""
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def strides_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose numbers lie in order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
