"""The page of `compress sensitivity`: KL against the place in the model, and against the bytes that are saved."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report.data.sensitivity import LayerRow, Sensitivity, by_change
from compress.report.page.figures import LOWEST, figure
from compress.report.page.html import page
from compress.report.page.markup import Markup, Table, element, table
from compress.report.page.plots import SERIES, Bubble, Line, bubbles, legend, lines
from compress.report.text.cells import size
from export.runtime.counted import counted

HEADERS = ("layer", "change", "KL × 1000", "saved", "time saved, µs")
CHANGE, KL_TITLE = "One layer changed alone", "KL that it adds, nats per token"
MARKED = 5  # layers that are named beside their bubbles: those that add most


def html(found: Sensitivity) -> str:
    """The page."""
    title = f"{found.model}: what each layer costs and saves, changed alone"
    head = element(
        "header",
        element("p", "compress sensitivity", class_="note"),
        element("h1", title),
        element(
            "p",
            f"{counted(found.pictures, f'{found.part} picture')}; products of "
            f"{counted(found.rows_at_a_step, 'row')} on {found.threads} "
            f"threads of {found.environment.cpu}",
            class_="note",
        ),
    )
    quantized = [row for row in found.layers if row.kind == "quantize"]
    pruned = [row for row in found.layers if row.kind == "prune"]
    sections = []
    for place, heading, rows in (("quantized", "Quantized alone", quantized), ("pruned", "Pruned alone", pruned)):
        if rows:
            made = element("div", by_place(found, rows, heading), against_bytes(found, rows, heading))
            sections.append((place, heading, made))
    return page(title, head, sections)


def by_place(found: Sensitivity, rows: Sequence[LayerRow], heading: str) -> Markup:
    """KL along the model, a line for each change."""
    lowest = max(LOWEST * max(row.kl for row in rows), 1e-12)
    places = {layer: index for index, layer in enumerate(dict.fromkeys(row.layer for row in rows))}
    series = [
        Line(
            name,
            [places[row.layer] for row in each],
            [max(row.kl, lowest) for row in each],
            [max(row.kl_ci95[0], lowest) for row in each],
            [max(row.kl_ci95[1], lowest) for row in each],
        )
        for name, each in by_change(rows).items()
    ]
    return figure(
        lines(series, f"{heading}, along the model", "place in the model", KL_TITLE, log=True),
        "Each point is the model with this one change. Bands are 95 % intervals over pictures; places are numbered in "
        "order of execution, as the table lists them.",
        numbers(rows, heading),
        found.command,
        key=legend([line.name for line in series]),
    )


def against_bytes(found: Sensitivity, rows: Sequence[LayerRow], heading: str) -> Markup:
    """KL against the bytes that are saved, a colour for each change; those that add most are named."""
    most = sorted(rows, key=lambda row: row.kl)[-MARKED:]
    points = [
        Bubble(
            x=row.saved_bytes / 1e3,
            y=row.kl,
            area=max(row.saved_ms, 0.0),
            mark=row.layer if any(row is each for each in most) else "",
            title=f"{row.layer}, {row.change}: KL {row.kl:.3g} nats, {size(row.saved_bytes)} and "
                  f"{1e3 * row.saved_ms:.1f} µs saved",
            y_interval=row.kl_ci95,
            series=index % SERIES,
        )
        for index, each in enumerate(by_change(rows).values())
        for row in each
    ]  # fmt: skip
    return figure(
        bubbles(points, f"{heading}, against bytes", "bytes saved, kB", KL_TITLE, front=False),
        "Lower right is better: much is saved, little is added. The area of a bubble is the time that is saved.",
        numbers(rows, heading),
        found.command,
        key=legend([*by_change(rows)]),
    )


def numbers(rows: Sequence[LayerRow], heading: str) -> Table:
    """The same as a table."""
    cells = [
        (
            row.layer, row.change, f"{1e3 * row.kl:.4f} ({1e3 * row.kl_ci95[0]:.4f} to {1e3 * row.kl_ci95[1]:.4f})",
            size(row.saved_bytes), f"{1e3 * row.saved_ms:.1f}",
        )
        for row in rows
    ]  # fmt: skip
    return table(HEADERS, cells, caption=heading, words=("layer", "change"))
