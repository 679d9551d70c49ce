"""Files that are whole or not there, behind a power cut too: what is written reaches the disk before it gets its name.

A rename is atomic for every reader, but a disk may keep it and lose what it names, unless the content was written out
first (fsync).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk; a file system without that is let be.

    Raises:
        OSError: the disk is full or fails, which some systems find out only now.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def sync_tree(folder: Path) -> None:
    """Wait until everything inside a folder is on the disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def move(draft: Path, place: Path) -> None:
    """Give a draft that was synced its name; a file that had it is replaced."""
    draft.replace(place)
    sync(place.parent)


def write_bytes(path: Path, content: bytes, draft: Path | None = None) -> None:
    """Write a file whole or not at all; an interrupted write leaves what was there before.

    Raises:
        OSError: it cannot be written; no draft is left.
    """
    draft = draft or path.with_name(f".{path.name}.draft-{os.getpid()}")
    try:
        draft.write_bytes(content)
        sync(draft)
        move(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def write_text(path: Path, text: str, draft: Path | None = None) -> None:
    """As `write_bytes`, of UTF-8 text."""
    write_bytes(path, text.encode(), draft)


@contextlib.contextmanager
def files_of(folder: Path) -> Iterator[Path]:
    """A draft folder whose files get their place in `folder` together, when the block ends well.

    Raises:
        OSError: they cannot be written; what was in the folder stays as it was.
    """
    draft = folder / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        sync_tree(draft)
        for path in sorted(draft.iterdir()):
            path.replace(folder / path.name)
        sync(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
