"""NumPy's .npz and .npy files, read strictly: wanted arrays only, of the wanted kinds, with bounded memory.

The size of every array is known from its member's size and its own header before a byte of it is expanded; nothing is
ever unpickled. Arrays are returned in this machine's byte order.
"""

from __future__ import annotations

import ast
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from calibration.archives import DAMAGED, FileError, check_regular, opened, read_exactly, reason, shown

LIMIT_BYTES = 4 << 30  # of all arrays that are wanted of a file together
MAGIC = b"\x93NUMPY"
HEADER_BYTES = 4096  # NumPy's own headers of plain arrays are 128 bytes
WHOLE, FLOATS, NUMBERS, TRUTHS, TEXTS = "iu", "f", "iuf", "b", "U"  # NumPy's letters for kinds of numbers
KINDS = {WHOLE: "whole numbers", FLOATS: "floats", NUMBERS: "real numbers", TRUTHS: "truth values", TEXTS: "texts"}
SUFFIX = ".npy"


@dataclass(frozen=True)
class Wanted:
    """What an array has to be: the kinds of its numbers (letters of NumPy), how many axes it may have."""

    kinds: str
    ranks: tuple[int, ...]
    needed: bool = True  # whether a file without it is refused


@dataclass(frozen=True)
class Header:
    """What an array's own header says."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool  # the first axis runs fastest

    @property
    def size_bytes(self) -> int:
        """What its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def array_names(path: Path) -> list[str]:
    """The names of an .npz file's arrays, in its order; no array is read.

    Raises:
        FileError: the file is no .npz file.
    """
    refuse_single(path)
    with opened(path) as archive:
        return [member.filename.removesuffix(SUFFIX) for member in archive.infolist()]


def read_arrays(path: Path, wanted: Mapping[str, Wanted], limit_bytes: int = LIMIT_BYTES) -> dict[str, NDArray[Any]]:
    """The wanted arrays of an .npz file by name, in the order of `wanted`; what else the file holds is not looked at.

    Raises:
        FileError: the file is no .npz file, damaged or encrypted; an array is missing, of another kind or rank, holds
            NaN, Inf or whole numbers above 2^63 - 1; all together are larger than `limit_bytes`. The array is named.
    """
    refuse_single(path)
    found: dict[str, NDArray[Any]] = {}
    left = limit_bytes
    with opened(path) as archive:
        members = {member.filename.removesuffix(SUFFIX): member for member in archive.infolist()}
        for name, each in wanted.items():
            if name in members:
                where = f"{path}: array {shown(name)}"
                found[name] = read_member(archive, members[name], each, left, where)
                left -= found[name].nbytes
            elif each.needed:
                listed = ", ".join(shown(other) for other in list(members)[:10]) or "nothing"
                raise FileError(f"{path}: array {shown(name)} is missing; it holds {listed}")
    return found


def read_array(path: Path, wanted: Wanted, limit_bytes: int = LIMIT_BYTES) -> NDArray[Any]:
    """The array of an .npy file.

    Raises:
        FileError: the file is no .npy file or damaged; the array is not as wanted, or larger than `limit_bytes`.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            return read_from(file, path.stat().st_size, wanted, limit_bytes, str(path))
    except FileError:
        raise
    except DAMAGED as error:
        raise FileError(f"{path}: not a readable .npy file ({reason(error)})") from error


def refuse_single(path: Path) -> None:
    """Refuse an .npy file where an .npz file is wanted."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from error
    if start == MAGIC:
        raise FileError(f"{path}: holds one array without a name (.npy); save arrays by name with numpy.savez")


def read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, wanted: Wanted, limit_bytes: int, where: str
) -> NDArray[Any]:
    """One array of an archive; zipfile compares its checksum when its last byte is read."""
    try:
        with archive.open(member) as file:
            return read_from(file, member.file_size, wanted, limit_bytes, where)
    except FileError:
        raise
    except DAMAGED as error:
        raise FileError(f"{where}: not readable, truncated or damaged ({reason(error)})") from error


def read_from(file: IO[bytes], size_bytes: int, wanted: Wanted, limit_bytes: int, where: str) -> NDArray[Any]:
    """An array from the beginning of a file or member of this size."""
    header, begin = read_header(file, where)
    check_header(header, wanted, where)
    if header.size_bytes > limit_bytes:
        raise FileError(f"{where}: takes {header.size_bytes:.3g} bytes; {limit_bytes:.3g} are allowed")
    if begin + header.size_bytes != size_bytes:
        raise FileError(
            f"{where}: shape {shown(header.shape)} of {header.dtype} takes {header.size_bytes} bytes; "
            f"{size_bytes - begin} follow its header"
        )
    flat = np.empty(math.prod(header.shape), dtype=header.dtype)
    if read_exactly(file, flat.view(np.uint8).data) != header.size_bytes or file.read(1):
        raise FileError(f"{where}: does not have the size that the file says; it is truncated or damaged")
    flat = flat.astype(header.dtype.newbyteorder("="), copy=False)
    check_values(flat, where)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def read_header(file: IO[bytes], where: str) -> tuple[Header, int]:
    """An array's header, and where its numbers begin."""
    start = file.read(len(MAGIC) + 2)
    if len(start) != len(MAGIC) + 2 or not start.startswith(MAGIC):
        raise FileError(f"{where}: is no NumPy array")
    width = 2 if start[-2] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > HEADER_BYTES:
        raise FileError(f"{where}: its header takes {length} bytes; it is damaged")
    text = file.read(length)
    try:
        said = ast.literal_eval(text.decode("latin-1"))
        shape, fortran, dtype = said["shape"], said["fortran_order"], said["descr"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise FileError(f"{where}: its header is damaged ({reason(error)})") from error
    if not isinstance(shape, tuple) or not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise FileError(f"{where}: its header says shape {shown(shape)}")
    if not isinstance(fortran, bool):
        raise FileError(f"{where}: its header says fortran_order {shown(fortran)}; True or False is needed")
    return Header(dtype_of(dtype, where), shape, fortran), len(MAGIC) + 2 + width + length


def dtype_of(said: object, where: str) -> np.dtype[Any]:
    """The number format that a header says."""
    try:
        dtype = np.dtype(said) if isinstance(said, str) else None
    except (TypeError, ValueError, SyntaxError) as error:
        raise FileError(f"{where}: its header says the number format {shown(said)}") from error
    if dtype is None:
        raise FileError(f"{where}: holds records; plain numbers are needed")
    if dtype.hasobject:
        raise FileError(f"{where}: holds Python objects, which are never read; save it as numbers")
    return dtype


def check_header(header: Header, wanted: Wanted, where: str) -> None:
    """Refuse another kind of numbers or another number of axes."""
    if header.dtype.kind not in wanted.kinds:
        needed = KINDS.get(wanted.kinds, f"kinds {wanted.kinds}")
        raise FileError(f"{where}: is {header.dtype}; {needed} are needed")
    if len(header.shape) not in wanted.ranks:
        ranks = " or ".join(map(str, wanted.ranks))
        raise FileError(f"{where}: has {len(header.shape)} axes, shape {shown(header.shape)}; {ranks} are needed")


def check_values(array: NDArray[Any], where: str) -> None:
    """Refuse NaN, Inf, whole numbers that int64 does not hold, and texts of what are no characters."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FileError(f"{where}: holds NaN or Inf")
    if array.dtype.kind == "U" and array.size and array.view(np.uint32).max() > sys.maxunicode:
        raise FileError(f"{where}: holds what is no text")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise FileError(f"{where}: holds {array.max()}, which is out of range")
