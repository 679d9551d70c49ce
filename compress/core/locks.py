"""Locks of files, which the system releases when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from compress.core.settings import InputError

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # some network file systems


class Lock:
    """A lock that is held until `release`, or until the process ends."""

    def __init__(self, path: Path | None) -> None:
        """Open the lock's file, also one of another user; without a path, a lock that everyone holds.

        Raises:
            OSError: it can neither be made nor opened.
        """
        self.path, self.descriptor = path, -1
        if path is not None:
            self.descriptor = opened(path)

    def take(self, kind: int, *, wait: Callable[[], None] | None) -> bool:
        """Take the lock, or change its kind; whether it is held now.

        While another process holds it, this one calls `wait` once and waits; with None it gives up.

        Raises:
            InputError: the file system has no locks.
        """
        if self.path is None:
            return True
        try:
            try:
                fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait is None:
                    return False
                wait()
                fcntl.flock(self.descriptor, kind)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise InputError(
                    f"{self.path}: this file system has no locks ({error.strerror}), so two runs could harm each "
                    "other; choose a store on another one with --store"
                ) from error
            raise
        return True

    def release(self) -> None:
        """Give it back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.release()


def opened(path: Path) -> int:
    """A descriptor of the lock's file, made if it is not there."""
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | flags)  # network file systems want an exclusive lock's file to be writable
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return os.open(path, os.O_RDONLY | flags)
