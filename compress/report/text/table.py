"""A report as a table for the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.tables import lines_of, table
from compress.report import Report
from compress.report.text.cells import HEADERS, flagged, overview
from export.runtime.counted import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAST = ("vs previous", "weights", "agree %", "KL", "ms/token", "flags", "size")


def overview_table(report: Report, width: int) -> RenderableType:
    """One row for each model, red where a gate was breached; what is flagged or breached is said in words below."""
    from rich.console import Group
    from rich.text import Text

    breached = {breach.step for breach in report.verdict.breaches}
    rows = overview(report)
    styles = {index: "red" for index, cells in enumerate(rows) if cells[0] in breached}
    shown = table(
        "", HEADERS, rows, width, least=LEAST, elsewhere="report.md and --json have all", styles=styles,
        sections=[len(report.steps)],
    )  # fmt: skip
    title = Text(
        "\n".join(lines_of(headline(report), width)), style=f"bold {'green' if report.verdict.passed else 'red'}"
    )
    said = [*(breach.text for breach in report.verdict.breaches), *flagged(report)]
    return Group(title, Text(""), shown, Text(""), *(Text("\n".join(lines_of(line, width, "  "))) for line in said))


def headline(report: Report) -> str:
    """The verdict in a few words."""
    count = len(report.verdict.breaches)
    return "passed: every gate was kept" if not count else f"failed: {counted(count, 'breach')}"
