"""Zip archives from strangers: of regular files only, every size known and bounded before anything is expanded."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DIRECTORY_BYTES = 16 << 20  # of an archive's list of members; that of a checkpoint with 100,000 tensors fits
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what NumPy and PyTorch write
SHOWN = 100  # characters of a name in a message
# What zipfile and zlib raise when bytes are damaged.
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError, OverflowError)


class FileError(ValueError):
    """A file is not what it should be; the text says where and what in one line."""


class BoundedFile(io.FileIO):
    """A file of which no single read is larger than DIRECTORY_BYTES: zipfile reads a directory in one piece."""

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, or the rest.

        Raises:
            BadZipFile: they are too many.
        """
        left = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        count = left if size is None or size < 0 else min(size, left)
        if count > DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of members is larger than {DIRECTORY_BYTES >> 20} MiB")
        return super().read(count) or b""


def shown(name: object) -> str:
    """A name as a message shows it: on one line, and not longer than SHOWN characters."""
    text = repr(name)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def reason(error: BaseException) -> str:
    """An error's text on one short line."""
    return " ".join(str(error).split())[:SHOWN] or type(error).__name__


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file: reading a pipe waits, and a device may never end.

    Raises:
        FileError: nothing is there, or a folder, a pipe, a socket or a device is.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        said = "there is no such file" if isinstance(error, FileNotFoundError) else reason(error)
        raise FileError(f"{path}: {said}") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: is {kind_of(mode)}, not a regular file")


def kind_of(mode: int) -> str:
    """What a path is, by its mode."""
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members have different names, are not encrypted, and are stored or deflated.

    Errors of damaged bytes inside the `with` become FileErrors too.

    Raises:
        FileError: the file is no such archive.
    """
    check_regular(path)
    try:
        with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            seen: set[str] = set()
            for member in archive.infolist():
                if member.filename in seen:
                    raise FileError(f"{path}: holds {shown(member.filename)} twice")
                seen.add(member.filename)
                if member.flag_bits & 1:
                    raise FileError(f"{path}: {shown(member.filename)} is encrypted; save it without a password")
                if member.compress_type not in METHODS:
                    raise FileError(f"{path}: {shown(member.filename)} is packed in a way that is not read")
            yield archive
    except FileError:
        raise
    except DAMAGED as error:
        raise FileError(f"{path}: not a readable zip archive, truncated or damaged ({reason(error)})") from error


def read_exactly(member: IO[Any], buffer: memoryview) -> int:
    """Fill a buffer piece by piece; how many bytes there were, fewer than it takes if the member ends early."""
    done = 0
    while done < len(buffer):
        count = len(piece := member.read(min(len(buffer) - done, 1 << 20)))
        if not count:
            break
        buffer[done : done + count] = piece
        done += count
    return done
