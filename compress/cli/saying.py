"""How much a verb says while it works: `-q`, `-v` and `--log-file`, one set for every verb that works long."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from compress.cli.paths import OutputFile
from compress.core.settings import InputError

KEY = "compress.saying"  # of the click context's `meta`, where the three options leave what they were given


@dataclass
class Saying:
    """What was asked for, and the log that is open."""

    quiet: bool = False
    verbose: bool = False
    log: TextIO | None = None
    began: float = field(default_factory=lambda: time.monotonic())

    def elapsed(self) -> str:
        """Time since the verb began, as 0:42 or 1:02:03."""
        return clock(time.monotonic() - self.began)

    def note(self, text: str) -> None:
        """Write a line into the log file, if there is one, with date and time."""
        if self.log is not None:
            print(time.strftime("%Y-%m-%d %H:%M:%S%z"), self.elapsed(), text, file=self.log, flush=True)


def current() -> Saying:
    """What the verb that runs was asked for."""
    context = click.get_current_context(silent=True)
    return Saying() if context is None else of(context)


def of(context: click.Context) -> Saying:
    """What the verb of a context was asked for."""
    found: Saying = context.meta.setdefault(KEY, Saying())
    return found


def saying_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`-q`, `-v` and `--log-file`; the verb itself does not see them."""

    def quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        of(context).quiet = value

    def verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        of(context).verbose = value
        if value and of(context).quiet:
            raise InputError("-q and -v: give one of both")

    def log_file(context: click.Context, parameter: click.Parameter, value: Path | None) -> None:
        if value is not None and not context.resilient_parsing:
            context.with_resource(opened(value, of(context), context.command_path))

    given = (
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, is_eager=True, callback=quiet,
                     help="Say nothing but the result, warnings and errors."),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=verbose,
                     help="Say more: progress every second, the time of each part, memory."),
        click.Option(["--log-file"], type=OutputFile(), expose_value=False, callback=log_file, metavar="FILE",
                     help="Add every message to a file too, with date and time; -q changes nothing there."),
    )  # fmt: skip
    before = command.__dict__.setdefault("__click_params__", [])  # where click collects options, the last one first
    before[:0] = reversed(given)
    return command


@contextlib.contextmanager
def opened(path: Path, saying: Saying, command: str) -> Iterator[None]:
    """Open the log file, to which is added, while a verb runs; the last line says how that ended."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as saying.log:
        saying.note(f"begun: {command}")
        try:
            yield
        except KeyboardInterrupt:
            saying.note("interrupted")
            raise
        except BaseException as error:
            saying.note(f"ended by {type(error).__name__}: {error}")
            raise
        else:
            saying.note("ended")
        finally:
            saying.log = None


@contextlib.contextmanager
def noting_log(name: str, saying: Saying) -> Iterator[None]:
    """Add what a library says through `logging` to the log file as well."""
    import logging

    class Noting(logging.Handler):
        """Writes each record's line."""

        def emit(self, record: logging.LogRecord) -> None:
            saying.note(f"{record.levelname.lower()}: {self.format(record)}")

    logger, handler = logging.getLogger(name), Noting(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def clock(seconds: float) -> str:
    """A time as 0:42 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory() -> str:
    """The most memory that this process took so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f} MiB at most"
