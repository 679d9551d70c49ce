"""Standard streams that no job fails on: closed, full, of another encoding, or with a reader that has gone."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PLAIN = "compress.plain"  # the name of the handler below
ALIKE = str.maketrans({"–": "-", "—": "-", "×": "x", "→": "->", "…": "...", "≤": "<=", "≥": ">=", "±": "+-"})


class Outlet(io.RawIOBase):
    """Writes into a descriptor; what it does not take is dropped, and the first error kept."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return os.isatty(self.descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of the data; a descriptor that does not wait by itself is waited for."""
        while self.error is None:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:
                select.select([], [self.descriptor], [])
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


class Standard:
    """Standard output and error while a verb runs."""

    def __init__(self, output: Outlet | None) -> None:
        self.output = output

    def outcome(self, code: int) -> int:
        """The exit code: output that was lost is bad, unless its reader wanted no more."""
        sys.stdout.flush()
        error = self.output.error if self.output is not None else None
        if error is None or error.errno == errno.EPIPE or code != 0:
            return code
        sys.stderr.write(f"error: standard output: {error.strerror}; what was printed is lost\n")
        return 2


@contextlib.contextmanager
def tolerant() -> Iterator[Standard]:
    """Replace standard output and error by streams that never raise; a closed one is the null device."""
    codecs.register_error(PLAIN, plain)
    reserve()
    before = sys.stdout, sys.stderr
    sys.stdout, output = opened(sys.stdout, sys.__stdout__)
    sys.stderr, _ = opened(sys.stderr, sys.__stderr__)
    try:
        yield Standard(output)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        if None not in before:
            sys.stdout, sys.stderr = before


def reserve() -> None:
    """Open the null device as each closed standard descriptor: the next file to be opened would get its number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free


def opened(stream: TextIO | None, original: TextIO | None) -> tuple[TextIO, Outlet | None]:
    """A stream that takes every character and never raises; one that a program put in its place only the former."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8", errors=PLAIN), None
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)
        return stream, None
    stream.flush()
    outlet = Outlet(stream.fileno())
    at_once = stream.line_buffering or stream.write_through
    made = io.TextIOWrapper(io.BufferedWriter(outlet), encoding=stream.encoding, errors=PLAIN, line_buffering=at_once)
    return made, outlet


def plain(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding does not have: the nearest one, or a backslash and its number."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(ALIKE)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
