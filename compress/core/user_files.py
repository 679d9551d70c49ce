"""Files that a user names: paths, and text of bounded size, with one clear line for whatever is wrong with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from compress.core.settings import InputError, shown


def user_path(text: str | Path, where: str = "") -> Path:
    """A path that a user wrote, with ``~`` as a home folder.

    Raises:
        InputError: the user of ``~user`` is unknown, or no path can be written so.
    """
    before = f"{where}: " if where else ""
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except RuntimeError:
        raise InputError(f"{before}{shown(str(text))}: no user has this home folder; write the path out") from None
    except UnicodeEncodeError:
        raise InputError(f"{before}{shown(str(text))} cannot be a path on this system") from None
    if "\0" in str(path):
        raise InputError(f"{before}{shown(str(text))} cannot be a path: it holds a NUL character")
    return path


def file_called(text: str) -> Path | None:
    """The file that a text names, or None: most texts are no names of files."""
    try:
        path = user_path(text)
        return path if path.is_file() else None
    except (InputError, OSError):
        return None


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A regular file, open for reading.

    Raises:
        InputError: there is no such file, it is a folder, a pipe or a device, or it cannot be read, also inside of the
            `with`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe is not waited for
    try:
        descriptor = os.open(user_path(path), flags)
        try:
            check_regular(os.fstat(descriptor).st_mode, path)
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """The content of a regular file; no more than the limit is ever read.

    Raises:
        InputError: as `opened`, or the file is too large.
    """
    with opened(path) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise InputError(f"{path}: is larger than {limit_bytes // 1024} KiB, the most that is read")
    return content


def check_regular(mode: int, path: Path) -> None:
    """Refuse what is not a regular file: reading a pipe waits, and a device may never end.

    Raises:
        InputError: it is something else.
    """
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is a pipe or a device, not a regular file")


def read_text(path: Path, limit_bytes: int) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: as `read_bytes`, or the file is not UTF-8 text.
    """
    try:
        return read_bytes(path, limit_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
