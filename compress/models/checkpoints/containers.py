"""Where every tensor of a weights file lies, found without reading one: safetensors, PyTorch's zip files, old pickles.

Tensors are then read one by one through plain file reads. A memory-mapped file would count as the process's own memory
for as long as it is mapped, and a file that shrinks under the mapping would kill the process.
"""

from __future__ import annotations

import bisect
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from calibration import archives
from calibration.archives import FileError, check_regular, reason
from compress.core.settings import InputError, shown
from compress.models.checkpoints.inert import place_of, refused_class, stand_ins

T = TypeVar("T")

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
ZIP_MAGIC = b"PK\x03\x04"
# What training files wrap a state dict in, in the order in which LlamaGen's own sampling code looks; then Halton's and
# VAR's. The first that is there is taken.
WRAPPERS = ("model", "module", "state_dict", "model_state_dict", "trainer.var_wo_ddp", "trainer.vae_local")
# Others, averaged weights among them: read if asked for, or if it is the only one that is there.
HOLDERS = (
    "ema", "params_ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "model_state_dict_ema",
    "generator", "generator_ema", "g_ema", "net", "network", "params", "weights", "checkpoint",
)  # fmt: skip
LISTS = ("shadow_params", "ema.shadow_params", "collected_params")  # averaged weights without names
HEADER_BYTES = 32 << 20  # of a safetensors file: about 200,000 tensors
PICKLE_BYTES = 256 << 20  # of what a PyTorch file holds beside the numbers
EXPANSION = 20  # times that a compressed file may grow; weights hardly do
NAME = 256  # characters of a tensor's name
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

    Raises:
        InputError: as `opened`.
    """
    return opened(path, wrapped=wrapped, weights=weights)[0]


def opened(path: Path, *, wrapped: bool = True, weights: str | None = None) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """Every tensor of one weights file by name, and what there was to choose, in words.

    A pickle's state dict may be wrapped (see WRAPPERS) if `wrapped`; `weights` names the wrapper if there are several.

    Raises:
        InputError: the file is missing, truncated, holds no state dict, or more than harmless data.
    """
    if not path.exists() or path.is_dir():
        raise InputError(f"{path}: there is no such checkpoint file")
    try:
        check_regular(path)
    except FileError as error:
        raise InputError(str(error)) from error
    if path.suffix == SAFETENSORS:
        if weights is not None:
            raise InputError(f"{path}: holds no '{weights}'; a safetensors file holds one set of weights")
        return named(dict(safetensors_entries(path)), path), ()
    if path.suffix not in PICKLES:
        raise InputError(f"{path}: unknown kind of checkpoint; known: {SAFETENSORS}, {', '.join(PICKLES)}")
    content, ends = unpickled(path)
    state, notes = unwrap(content, path, weights) if wrapped else (content, ())
    if not is_state(state):
        raise InputError(f"{path}: {no_state(state)}")
    return {name: locate(name, tensor, path, ends) for name, tensor in named(state, path).items()}, notes


def unpickled(path: Path) -> tuple[Any, list[int] | None]:
    """What a pickle holds, tensors on the meta device where they can be read one by one, and where its records end.

    Raises:
        InputError: it is damaged, or holds a class that is not known to hold data only; nothing is executed.
    """
    try:
        ends = record_ends(path)
        with torch.serialization.safe_globals(stand_ins()):
            return torch.load(path, map_location="cpu" if ends is None else "meta", weights_only=True), ends
    except pickle.UnpicklingError as error:
        raise refusal(path, error) from error
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the unpickler fail in a dozen ways
        raise InputError(f"{path}: not a readable checkpoint, truncated or damaged ({reason(error)})") from error


def refusal(path: Path, error: Exception) -> InputError:
    """The complaint that a pickle holds more than data, with the class and its place where they are known."""
    mend = "nothing in it was executed; save a plain state dict (name to tensor) or safetensors"
    refused = refused_class(error)
    if not refused:
        return InputError(f"{path}: holds more than tensors, or is damaged; {mend}")
    behind = place(path, refused)
    return InputError(f"{path}: holds {shown(refused)}{behind}, which is not known to hold data only; {mend}")


def place(path: Path, refused: str) -> str:
    """Behind which key of a pickle a class stands, in words."""
    try:
        with archives.opened(path) as archive:
            record = next(each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            with archive.open(record) as stream:
                found = place_of(stream, refused)
    except (OSError, FileError, StopIteration):
        return ""
    return f" behind {shown(found)}" if found else ""


def named(found: Mapping[str, T], path: Path) -> dict[str, T]:
    """The tensors, if their names can be shown.

    Raises:
        InputError: a name is empty, too long, or holds characters that cannot be printed.
    """
    for name in found:
        if not 0 < len(name) <= NAME or not name.isprintable():
            raise InputError(f"{path}: a tensor is called {shown(name)}; names have 1 to {NAME} printable characters")
    return dict(found)


def safetensors_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """The places that a safetensors file's header gives; the library checks them against each other and the file."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > HEADER_BYTES:
                raise ValueError(f"its header is said to take {size} bytes; {HEADER_BYTES} are read")
            header = json.loads(file.read(size))
        with safe_open(path, framework="np") as checked:
            names = list(checked.keys())
        for name in names:  # the library also takes entries in forms that are not the format's
            if not isinstance(header[name], dict) or not isinstance(header[name]["dtype"], str):
                raise ValueError(f"tensor {shown(name)} is said to be {shown(header[name])}")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else reason(error)
        raise InputError(f"{path}: not a readable safetensors file, truncated or damaged ({said})") from error
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

    Raises:
        InputError: it would expand to more than EXPANSION times its size, or its pickle is larger than PICKLE_BYTES.
    """
    with path.open("rb") as file:
        if file.read(4) != ZIP_MAGIC:
            return None
    with archives.opened(path) as archive:
        records = archive.infolist()
        expanded, size = sum(record.file_size for record in records), path.stat().st_size
        if expanded > EXPANSION * size + PICKLE_BYTES:
            raise InputError(f"{path}: its {size} bytes would expand to {expanded}; it is damaged, or no checkpoint")
        pickled = max((each.file_size for each in records if each.filename.endswith("/data.pkl")), default=0)
        if pickled > PICKLE_BYTES:
            raise InputError(f"{path}: holds {pickled} bytes beside the numbers; {PICKLE_BYTES} are read")
        stored = all(record.compress_type == zipfile.ZIP_STORED for record in records)
        orders = {
            archive.read(record) if record.file_size < len(ZIP_MAGIC) * 4 else b""
            for record in records
            if record.filename.endswith("/byteorder")
        }
        if not stored or not orders <= {b"little"}:
            return None
        return [*sorted(record.header_offset for record in records), archive.start_dir]


def locate(name: str, tensor: Tensor, path: Path, ends: list[int] | None) -> Entry:
    """Where a tensor of a pickle lies, checked against the file's records."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{path}: tensor '{name}' is sparse or quantized; save it as a plain tensor")
    if tensor.numel() * tensor.dtype.itemsize > EXPANSION * path.stat().st_size + PICKLE_BYTES:
        raise InputError(f"{path}: tensor '{name}' is {tuple(tensor.shape)}, more than the file can hold")
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


def unwrap(content: Any, path: Path, weights: str | None) -> tuple[Any, tuple[str, ...]]:
    """The state dict in what a training run saved, and in words what else there was to choose.

    Raises:
        InputError: there are several, of which none is usual, or not the one that is asked for.
    """
    if weights is None and is_state(content):
        return content, ()
    usual = {wrapper: inner for wrapper in WRAPPERS if (inner := at(content, wrapper)) is not None}
    other = {wrapper: inner for wrapper in HOLDERS if is_state(inner := at(content, wrapper)) and inner}
    found = {**usual, **other}
    if weights is not None:
        for wrapper, inner in found.items():
            if weights in (wrapper, wrapper.split(".")[-1]):
                return inner, (f"the weights under '{wrapper}', as asked for",)
        if is_state(inner := at(content, weights)) and inner:
            return inner, (f"the weights under '{weights}', as asked for",)
        raise InputError(
            f"{path}: holds no '{weights}'; it holds {', '.join(found) or 'one set of weights without a name'}"
        )
    if not usual and len(other) > 1:
        raise InputError(
            f"{path}: holds the weights {', '.join(other)}; state which to read: config.weights, for example  "
            f"--set weights={next(iter(other))}"
        )
    if not found:
        return loose(content), ()
    taken = next(iter(found))
    # A part of what was taken is no other set of weights.
    left = [wrapper for wrapper in found if wrapper != taken and found[wrapper] is not found[taken]]
    also = f"; also there: {', '.join(left)} (--set weights={left[0]} reads it)" if left else ""
    return found[taken], (f"the weights under '{taken}'{also}",)


def loose(content: Any) -> Any:
    """The tensors of a mapping that holds numbers and words beside them."""
    if not isinstance(content, Mapping):
        return content
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    rest = [value for name, value in content.items() if name not in tensors]
    simple = all(value is None or isinstance(value, (int, float, str)) for value in rest)
    return tensors if simple and any("." in name for name in tensors) else content


def no_state(content: Any) -> str:
    """What is there instead of a state dict."""
    if isinstance(content, Mapping):
        if any(at_list(content, name) for name in LISTS):
            return (
                "holds averaged weights without names (shadow_params); copy them into the model and save its state dict"
            )
        keys = ", ".join(shown(key) for key in list(content)[:8]) or "nothing"
        return (
            f"holds {type(content).__name__}, not a plain state dict of tensors by name; its keys are {keys}; "
            "state config.weights, the key of the one to read"
        )
    return f"holds {type(content).__name__}, not a plain state dict of tensors by name"


def at_list(content: Any, dotted: str) -> bool:
    """Whether a list lies under a dotted name."""
    for key in dotted.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return isinstance(content, (list, tuple))


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
