"""What the command line prints: tables and JSON on standard output, messages and progress on standard error."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

from compress.cli import saying
from compress.core.listener import as_lines, numbers, step

if TYPE_CHECKING:
    from rich.console import Console

    from compress.core.listener import Progress

LINE_SECONDS = 10.0  # where no bar can be drawn, at most one line of progress in this time
WIDTH = 140  # where there is no terminal, so that tables in logs are whole
BAR_NEEDS = 72  # columns below which a progress bar has no bar
INDENT = 9  # of the second line of a message, below its text
NARROWEST = 40  # in less a table is unreadable; a terminal may also state none, or nonsense


def console(stderr: bool = False) -> Console:
    """The terminal, or a wide one where there is none. NO_COLOR, if it is not empty, takes its colours."""
    from rich.console import Console

    return Console(stderr=stderr, width=known_width(sys.stderr if stderr else sys.stdout) or WIDTH, highlight=False)


def known_width(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream is, or what COLUMNS says; None of a pipe or a file."""
    stated = os.environ.get("COLUMNS", "")
    if stated.isdecimal() and int(stated):
        return max(int(stated), NARROWEST)
    return max(shutil.get_terminal_size().columns, NARROWEST) if stream.isatty() else None


class Terminal:
    """Shows what the pipeline says, with the time since the verb began, and how far long work is, on standard error.

    Only progress bars need Rich, which is not installed beside a service.
    """

    def __init__(self) -> None:
        self.saying = saying.current()
        self.console: Console | None = None  # while it draws a bar, lines have to go through it

    def say(self, text: str) -> None:
        """One line, unless the verb is to be quiet."""
        self.saying.note(text)
        if not self.saying.quiet:
            line = f"{self.saying.elapsed():>7}  {text}"
            text = "\n".join(self.wrapped(line))
            if self.console is None:
                print(text, file=sys.stderr, flush=True)  # click would write UTF-8 into streams of ASCII
            else:
                self.console.print(text, markup=False, soft_wrap=True)

    def wrapped(self, line: str) -> list[str]:
        """The line between words where the width is known, whole where it goes into a file."""
        from compress.core.tables import lines_of

        width = known_width(sys.stderr)
        return lines_of(line, width, " " * INDENT) if width and line.strip() else [line]

    @contextmanager
    def work(self, title: str) -> Iterator[Progress]:
        """A progress bar, or a line now and then where none can be drawn."""
        began = time.monotonic()
        with step(title):
            if self.saying.quiet or not sys.stderr.isatty():
                yield self.lines(title)
            else:
                with self.bar(title) as progress:
                    yield progress
        if self.saying.verbose:
            self.say(f"{title}: took {saying.clock(time.monotonic() - began)}, {saying.memory()}")

    @contextmanager
    def bar(self, title: str) -> Iterator[Progress]:
        """A progress bar; on a narrow terminal without the bar itself."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        outer = self.console
        self.console = outer or console(stderr=True)
        wide = self.console.width >= BAR_NEEDS
        ends = (MofNCompleteColumn(), TimeElapsedColumn())
        more = (BarColumn(), *ends, TimeRemainingColumn(), TextColumn("{task.fields[values]}")) if wide else ends
        log = self.lines(title, shown=False)
        try:
            with Bars(TextColumn("{task.description}"), *more, console=self.console, transient=True) as bars:
                task = bars.add_task(title, total=None, values="")

                def progress(done: int, total: int, values: dict[str, float]) -> None:
                    bars.update(task, completed=done, total=total, values=numbers(values))
                    log(done, total, values)

                yield progress
        finally:
            self.console = outer

    def lines(self, title: str, shown: bool = True) -> Progress:
        """Progress as lines, at most one in `LINE_SECONDS`; those not shown go into the log file alone."""
        say = self.say if shown else self.saying.note
        return as_lines(title, say, 1.0 if self.saying.verbose else LINE_SECONDS)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    from compress.core.settings import plain

    click.echo(json.dumps(plain(value), indent=1))


def print_rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    least: Sequence[str] = (),
    elsewhere: str = "--json has all",
) -> None:
    """A table on standard output; where it does not fit, columns go, those named in `least` first."""
    from compress.core.tables import table

    shown = console()
    shown.print(table(title, columns, rows, shown.width, least=least, elsewhere=elsewhere))
    shown.print()


def print_line(text: str) -> None:
    """A line on standard output: between words in several ones where a person reads it, whole in a pipe."""
    print_wrapped(text, err=False)


def print_wrapped(text: str, err: bool) -> None:
    """A text on standard output or error, wrapped between words where the width is known."""
    from compress.core.tables import lines_of

    width = known_width(sys.stderr if err else sys.stdout)
    for line in text.splitlines() or [""]:
        click.echo("\n".join(lines_of(line, width)) if width and line.strip() else line, err=err)
