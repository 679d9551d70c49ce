"""What the command line prints: tables and JSON on standard output, messages and progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from compress.core.listener import step

if TYPE_CHECKING:
    from rich.console import Console

    from compress.core.listener import Progress

LINE_SECONDS = 10.0  # where no bar can be drawn, at most one line of progress in this time
WIDTH = 140  # where there is no terminal, so that tables in logs are whole
NARROWEST = 40  # in less a table is unreadable; a terminal may also state none, or nonsense


def console(stderr: bool = False) -> Console:
    """The terminal, or a wide one where there is none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    made = Console(stderr=stderr, width=None if stream.isatty() else WIDTH, highlight=False)
    if made.width < NARROWEST:
        made.width = NARROWEST
    return made


class Terminal:
    """Shows what the pipeline says, and how far long work is, on standard error."""

    def __init__(self) -> None:
        self.console = console(stderr=True)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def work(self, title: str) -> Iterator[Progress]:
        """A progress bar, or a line now and then where none can be drawn."""
        if not self.console.is_terminal:
            with step(title):
                yield self.lines(title)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[values]}"))  # fmt: skip
        with step(title), Bars(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=None, values="")
            yield lambda done, total, values: bars.update(task, completed=done, total=total, values=numbers(values))

    def lines(self, title: str) -> Progress:
        """Progress as lines, at most one in `LINE_SECONDS`."""
        said_at = time.monotonic()

        def progress(done: int, total: int, values: dict[str, float]) -> None:
            nonlocal said_at
            if time.monotonic() - said_at >= LINE_SECONDS:
                said_at = time.monotonic()
                self.say(f"  {title}: {done} of {total}  {numbers(values)}".rstrip())

        return progress


def numbers(values: dict[str, float]) -> str:
    """Numbers beside a progress bar."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def print_json(value: Any) -> None:
    """JSON on standard output."""
    from compress.core.settings import plain

    click.echo(json.dumps(plain(value), indent=1))


def print_rows(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console().print(table, markup=False)
