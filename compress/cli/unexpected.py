"""What is done with an error that nobody foresaw: one line for a person, and the details in a private file.

What only an error needs is imported then, so that `compress --help` stays quick.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from compress.core.listener import step_of
from compress.core.settings import cut

MOST_SHOWN = 200  # characters of a foreign error's message
MOST_WRITTEN = 2_000_000  # characters of a traceback: a foreign message may hold a whole graph
LIBRARIES = ("image-token-compress", "numpy", "torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "click")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc", "bad allocation")


@contextlib.contextmanager
def of_threads() -> Iterator[list[BaseException]]:
    """Collect the errors that end threads, which Python would only print."""
    lost: list[BaseException] = []

    def collect(end: threading.ExceptHookArgs) -> None:
        if end.exc_value is not None and not isinstance(end.exc_value, SystemExit):
            lost.append(end.exc_value)

    before, threading.excepthook = threading.excepthook, collect
    try:
        yield lost
    finally:
        threading.excepthook = before


def line(error: BaseException, verb: str, arguments: Sequence[str]) -> str:
    """Say in one line what was being done, what happened, and where the details were written."""
    place = ": ".join(part for part in (verb, step_of(error)) if part)
    return f"{place}: {reason(error)} {details(error, place, arguments)}".removeprefix(": ")


def reason(error: BaseException) -> str:
    """What happened, on one line of bounded length."""
    message = " ".join(str(error).split())
    said = f"{type(error).__name__}: {cut(message, MOST_SHOWN)}" if message else type(error).__name__
    if isinstance(error, MemoryError) or any(sign in message.lower() for sign in OUT_OF_MEMORY):
        return f"out of memory ({said}); use a smaller batch, or a machine with more memory."
    return f"unexpected {said}; this is a fault of compress, not a breached gate."


def details(error: BaseException, place: str, arguments: Sequence[str]) -> str:
    """Write the traceback, the versions and the command line into a new file that only this user can read; where."""
    import tempfile

    try:
        number, name = tempfile.mkstemp(prefix="compress-", suffix=".log", text=True)
    except OSError as refused:
        return not_written(refused)
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(record(error, place, arguments))
    except (OSError, MemoryError) as refused:
        with contextlib.suppress(OSError):
            os.unlink(name)
        return not_written(refused)
    return f"Details: {name}; --debug shows them here"


def not_written(refused: BaseException) -> str:
    """Why there is no file of details, and how to see them."""
    why = getattr(refused, "strerror", None) or type(refused).__name__
    return f"The details could not be written ({why}); --debug shows them here"


def record(error: BaseException, place: str, arguments: Sequence[str]) -> str:
    """Everything that a report of this error needs."""
    import platform
    import shlex

    text = trace(error)
    if len(text) > MOST_WRITTEN:
        text = f"{text[: MOST_WRITTEN // 2]}\n... left out ...\n{text[-MOST_WRITTEN // 2 :]}"
    lines = (
        f"command:  {shlex.join(['compress', *arguments])}",
        f"at:       {place}",
        f"folder:   {here()}",
        f"time:     {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"python:   {sys.version.split()[0]} on {platform.platform()}",
        f"versions: {', '.join(f'{name} {version}' for name, version in versions().items())}",
    )
    return "\n".join((*lines, "", text))


def trace(error: BaseException) -> str:
    """The traceback with all its causes."""
    import traceback

    return "".join(traceback.format_exception(error))


def here() -> str:
    """The working directory, which may be gone."""
    try:
        return str(Path.cwd())
    except OSError as gone:
        return f"unknown ({gone.strerror})"


def versions() -> dict[str, str]:
    """Versions of the libraries that matter, where they are installed."""
    import importlib.metadata

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
