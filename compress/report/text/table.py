"""A report as a table for the console."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from compress.report import Report
from compress.report.text.cells import HEADERS, flagged, overview

WORDS = ("step", "flags")


def table(report: Report) -> Table:
    """One row for each model, red where a gate was breached; what is flagged or breached is said in words below."""
    shown = Table(
        box=box.SIMPLE_HEAD,
        title=Text(headline(report), style="bold green" if report.verdict.passed else "bold red"),
        caption=Text("\n".join([*(breach.text for breach in report.verdict.breaches), *flagged(report)])),
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for header in HEADERS:
        shown.add_column(header, justify="left" if header in WORDS else "right", no_wrap=header == "step")
    breached = {breach.step for breach in report.verdict.breaches}
    for index, cells in enumerate(overview(report)):
        style = "red" if cells[0] in breached else ""
        shown.add_row(*(Text(cell) for cell in cells), style=style, end_section=index == len(report.steps))
    return shown


def headline(report: Report) -> str:
    """The verdict in a few words."""
    count = len(report.verdict.breaches)
    return "passed: every gate was kept" if not count else f"failed: {count} breach{'es' if count > 1 else ''}"
