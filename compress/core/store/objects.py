"""Named objects in a file system that fsspec opens, with one clear line for whatever is wrong with it.

Nothing is asked of it but: an object is written whole, what was written is read and listed from then on, and a listing
says when. S3, and what speaks its protocol, keep that since 2020. There is no rename. `create` writes where nothing is,
for which S3 has the condition ``If-None-Match: *``; where a file system has no such condition, fsspec looks first and
then writes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from compress.core.settings import InputError, cut
from compress.core.store import server_errors
from compress.core.store.failures import StoreError

REACH_S = 6.0  # a server that does not answer within this time is out of reach
CONFLICTS = 5  # attempts to write what another one writes at the same time
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs>=2026.9"),
    **dict.fromkeys(server_errors.GOOGLE, "gcsfs>=2026.10"),
    **dict.fromkeys(server_errors.AZURE, "adlfs>=2026.8"),
}
LOGGERS = ("gcsfs", "adlfs", "azure", "s3fs")  # they write tracebacks of what is said in one line
TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")  # what file systems call it
SHOWN = 200  # characters of a library's message
Value = TypeVar("Value")


@dataclass(frozen=True)
class Info:
    """What a listing says of an object; the time is the server's, in seconds since 1970."""

    size: int
    modified: float


class Refused(StoreError):  # noqa: N818 - named as the other findings are
    """What was asked for is not permitted."""


class Objects:
    """The objects below a URL, by names with slashes.

    Every method raises StoreError where the server is out of reach, full, or refuses; FileNotFoundError where there is
    no such object.
    """

    def __init__(self, url: str, kept: Path) -> None:
        self.url, self.kept = url, kept
        self.scheme, _, rest = url.partition("://")
        self.bucket = rest.partition("/")[0]

    @cached_property
    def fs(self) -> Any:
        """The file system.

        Raises:
            InputError: no such one is known, or its package is not installed.
        """
        try:
            import fsspec
        except ImportError as error:
            raise InputError(f"store {self.url}: needs fsspec; pip install fsspec") from error
        scheme = self.scheme
        if scheme not in fsspec.available_protocols():
            raise InputError(f"store {self.url}: no file system is called '{scheme}'; use a path or s3://bucket/prefix")
        try:
            return opened(scheme)
        except ValueError as error:
            raise self.said(error) from error
        except ImportError as error:
            package = f"pip install '{PACKAGES[scheme]}'" if scheme in PACKAGES else str(error)
            raise InputError(f"store {self.url}: needs a package that is not installed; {package}") from error

    def path(self, name: str) -> str:
        """An object's path in the file system."""
        return f"{self.fs._strip_protocol(self.url)}/{name}"

    def first(self, name: str) -> bytes | None:
        """The first object that is read; None if it is not there.

        Raises:
            StoreError: the server does not answer in time.
        """
        assert self.fs is not None  # what is missing here is said without a thread

        def attempt() -> bytes | None:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None

        return self.soon(attempt)

    def soon(self, call: Callable[[], Value]) -> Value:
        """What a call returns or raises, with a deadline.

        Raises:
            StoreError: the server does not answer in time.
        """
        return within(REACH_S, call, f"store {self.url}: does not answer within {REACH_S:.0f} s")

    def read(self, name: str) -> bytes:
        """The content of an object."""
        with self.errors():
            return bytes(self.fs.cat_file(self.path(name)))

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of objects; those that went away meanwhile are left out."""
        if not names:
            return {}
        with self.errors():
            paths = {self.path(name): name for name in names}
            found = self.fs.cat([*paths], on_error="return")
            lost = [each for each in found.values() if isinstance(each, Exception)]
            for error in lost:
                if not isinstance(error, FileNotFoundError):
                    raise error
            return {paths[path]: data for path, data in found.items() if isinstance(data, bytes)}

    def info(self, name: str) -> Info:
        """Size and time of an object."""
        with self.errors():
            return info_of(self.fs.info(self.path(name)))

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        try:
            self.info(name)
        except FileNotFoundError:
            return False
        return True

    def listed(self, folder: str) -> dict[str, Info]:
        """The objects whose names begin with `folder` and a slash."""
        with self.errors():
            try:
                found = self.fs.find(self.path(folder), detail=True)
            except FileNotFoundError as error:
                # An empty listing is no error of S3: the bucket is missing, or this is no S3.
                if server_errors.code_of(error):
                    raise self.said(error) from error
                return {}
            start = len(self.path(""))
            return {path[start:]: info_of(each) for path, each in found.items() if each.get("type") == "file"}

    def check_bucket(self) -> None:
        """Look for the bucket, where an object that is missing and an empty listing do not tell.

        Raises:
            StoreError: there is none.
        """
        with self.errors():
            if server_errors.is_bucket_missing(self.fs, self.scheme, self.bucket):
                raise self.no_bucket()

    def write(self, name: str, data: bytes) -> None:
        """Write an object, in place of the one before."""
        with self.errors(writing=True):
            self.fs.pipe_file(self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object where there is none; whether there was none."""
        with self.errors(writing=True):
            for attempt in range(CONFLICTS):
                try:
                    self.fs.pipe_file(self.path(name), data, mode="create")
                except FileExistsError:
                    return False
                except OSError as error:
                    code = server_errors.code_of(error)
                    if code in server_errors.THERE_ALREADY:
                        return False
                    if code not in server_errors.CONFLICT or attempt == CONFLICTS - 1:
                        raise
                    time.sleep(0.1 * 2**attempt)
                else:
                    break
            return True

    def upload(self, source: Path, name: str) -> None:
        """Write an object from a file."""
        source.stat()  # a file that is gone here is no missing bucket
        with self.errors(writing=True):
            self.fs.put_file(str(source), self.path(name))

    def download(self, name: str, target: Path) -> None:
        """Write a file from an object."""
        with self.errors():
            self.fs.get_file(self.path(name), str(target))

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        with self.errors(), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    @contextlib.contextmanager
    def errors(self, *, writing: bool = False) -> Iterator[None]:
        """Turn what a file system raises into one line; that there is no such object passes, unless it is written."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            missing = (
                isinstance(error, FileNotFoundError) and server_errors.code_of(error) not in server_errors.NO_BUCKET
            )
            if missing and not writing:
                raise
            raise self.said(error) from error

    def said(self, error: Exception) -> StoreError:
        """The line for an error."""
        reason = cut(" ".join(f"{type(error).__name__}: {error}".split()), SHOWN)
        kept = f"what was finished is kept in {self.kept}, and the next run uploads it"
        if server_errors.says_no_bucket(error, self.scheme):
            return self.no_bucket()
        if server_errors.says_full(error):
            return StoreError(f"store {self.url}: is full ({reason}); {kept}")
        if server_errors.says_no_credentials(error):
            hint = server_errors.CREDENTIALS.get(self.scheme, server_errors.CREDENTIALS_S3)
            return StoreError(f"store {self.url}: no credentials were found ({reason}); {hint}")
        if server_errors.says_refused(error):
            return Refused(
                f"store {self.url}: access denied ({reason}); look at the credentials, or choose another with --store"
            )
        return StoreError(f"store {self.url}: cannot be reached or used ({reason}); {kept}")

    def no_bucket(self) -> StoreError:
        """The line for a bucket that is missing."""
        return StoreError(
            f"store {self.url}: there is no bucket '{self.bucket}'; make it, or choose another with --store"
        )


def opened(scheme: str) -> Any:
    """The file system of a URL's scheme, without caches of listings, and without messages of its own.

    Raises:
        ImportError: its package is not installed.
        ValueError: it lacks credentials.
    """
    import fsspec

    for logger in map(logging.getLogger, LOGGERS):
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    kind = fsspec.get_filesystem_class(scheme)
    if scheme in server_errors.GOOGLE:
        with contextlib.suppress(ImportError):  # the plain one: the other asks before each request what bucket it is
            from gcsfs.core import GCSFileSystem

            kind = GCSFileSystem
    return kind(skip_instance_cache=True, use_listings_cache=False)


def info_of(info: dict[str, Any]) -> Info:
    """Size and time, from what a file system says of an object.

    Raises:
        ValueError: it does not say when the object was written.
    """
    for name in TIMES:
        match info.get(name):
            case datetime() as when:
                return Info(info["size"], when.timestamp())
            case int() | float() as seconds:
                return Info(info["size"], float(seconds))
            case str() as text:
                return Info(info["size"], datetime.fromisoformat(text).timestamp())
    raise ValueError("this file system does not say when an object was written, so leases could not expire")


def within(seconds: float, call: Callable[[], Value], late: str) -> Value:
    """What a call returns or raises.

    Raises:
        StoreError: it takes longer; its thread is left to end with the process.
    """
    done: list[Value] = []
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise StoreError(late)
    return done[0]
