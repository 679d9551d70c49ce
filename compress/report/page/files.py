"""Figures as files: each plot as an SVG that needs no other file, and its numbers as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.core import durable
from compress.core.settings import InputError
from compress.core.strict_json import read_json
from compress.report import Report
from compress.report.data.outcomes import earlier
from compress.report.page.figures import (
    Figure,
    accuracy,
    by_layer,
    drift_waterfall,
    figure,
    pareto,
    positions,
    speed_waterfall,
)
from compress.report.page.html import picture
from compress.report.page.markup import Markup, element, join, table
from compress.report.page.plots import Line, legend, lines, swatch

TRAINING = "training.json"  # what `compress train` leaves
ROW = 20.0  # height of a line of the legend


def figures_of(report: Report, folder: Path) -> list[Figure]:
    """Every figure of the report's page, in its order."""
    made = (
        speed_waterfall(report, None),
        drift_waterfall(report, None),
        pareto(report, tuple(earlier(folder)), None),
        positions(report, None),
        by_layer(report, None),
        accuracy(report, None),
    )
    return [each for each in made if each is not None]


def training_log(folder: Path) -> list[dict[str, float]]:
    """What a training of a folder logged: step, training loss and validation loss.

    Raises:
        InputError: its record is damaged.
    """
    path = folder / TRAINING
    content = read_json(path)
    rows = content.get("log") if isinstance(content, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) and numbers_in(row) for row in rows):
        raise InputError(f"{path}: log: is not the list of steps that `compress train` writes")
    return [{name: float(row[name]) for name in ("step", "loss", "validation")} for row in rows]


def numbers_in(row: Mapping[str, Any]) -> bool:
    """Whether a row of a log has its three numbers."""
    return all(type(row.get(name)) in (int, float) for name in ("step", "loss", "validation"))


def training_figure(log: Sequence[Mapping[str, float]]) -> Figure:
    """Training and validation loss against the step."""
    steps = [row["step"] for row in log]
    named = {"training": "loss", "validation": "validation"}
    title = "Loss while training"
    cells = [(f"{row['step']:g}", *(f"{row[key]:.5g}" for key in named.values())) for row in log]
    return figure(
        lines([Line(name, steps, [row[key] for row in log]) for name, key in named.items()], title, "step", "loss"),
        "The loss of training is a running mean over about 50 steps; that of validation is of the weights kept.",
        table(("step", *named), cells, caption=title),
        None,
        key=legend([*named]),
        names=[("", name) for name in named],
    )


def write(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Write each figure as an SVG and its numbers as CSV, named after its title; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for each in figures:
        name = re.sub(r"[^a-z0-9]+", "-", each.numbers.caption.lower()).strip("-")
        for path, text in ((f"{name}.svg", picture(with_names(each))), (f"{name}.csv", as_csv(each))):
            durable.write_text(folder / path, text)
            written.append(folder / path)
    return written


def as_csv(shown: Figure) -> str:
    """The numbers of a figure."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([shown.numbers.headers, *shown.numbers.rows])
    return text.getvalue()


def with_names(shown: Figure) -> Markup:
    """The plot with its legend below it."""
    head, _, rest = shown.drawn.partition(">")
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', head)
    assert found is not None
    width, height = found[1], float(found[2])
    below = []
    for index, (mark, name) in enumerate(shown.names):
        at = height + ROW * (index + 0.7)
        key = element("text", mark, x=8.0, y=at, class_="tag") if mark else moved(swatch(index), at - 10)
        below.append(element("g", key, element("text", name, x=48.0, y=at, class_="name")))
    tall = height + ROW * len(shown.names)
    head = head.replace(found[0], f'viewBox="0 0 {width} {tall:g}"')
    return Markup(f"{head}>{rest.removesuffix('</svg>')}{join(below)}</svg>")


def moved(drawn: Markup, down: float) -> Markup:
    """A swatch at its place in the legend."""
    return Markup(drawn.replace("<svg ", f'<svg x="8" y="{down:g}" width="28" height="12" ', 1))
