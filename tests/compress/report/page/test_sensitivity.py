"""The page and the CSV of what each layer costs and saves."""

from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from compress.measure.speed.environment import environment
from compress.report.data.sensitivity import COLUMNS, LayerRow, Sensitivity, as_csv, by_layer
from compress.report.page.sensitivity import html


def row(layer, kind, change, kl, saved=1000, ms=0.002):
    return LayerRow(layer, kind, change, kl, (kl / 2, kl * 2), saved, ms, (ms - 0.001, ms + 0.001))


FOUND = Sensitivity(
    model="tiny <model>",
    part="validation",
    pictures=16,
    rows_at_a_step=2,
    threads=1,
    layers=(
        row("blocks.0.ffn.up", "quantize", "int8", 1e-6),
        row("blocks.0.ffn.up", "quantize", "int4-g128", 3e-4, 1500),
        row("blocks.0.ffn.down", "quantize", "int8", 2e-6),
        row("blocks.0.ffn.down", "quantize", "int4-g128", 0.0, 1500, -0.003),
        row("blocks.0", "prune", "25% of heads", 5e-3),
        row("blocks.0", "prune", "25% of units", 1e-4),
    ),
    environment=environment(),
    command="compress sensitivity tiny.yaml",
)


class Text(HTMLParser):
    """The texts of a page, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_has_both_plots_of_both_kinds_with_their_numbers_and_the_command():
    page = Text(html(FOUND))
    assert page.tags.count("svg") >= 4
    assert page.tags.count("table") == 4
    words = " ".join(page.texts)
    assert "tiny <model>: what each layer costs and saves, changed alone" in words
    assert "16 validation pictures; products of 2 rows on 1 threads" in words
    assert "0.3000 (0.1500 to 0.6000)" in words
    assert page.texts.count("compress sensitivity tiny.yaml") == 4
    assert "Pruned alone" in words


@pytest.mark.parametrize(("kind", "left"), [("quantize", "Quantized alone"), ("prune", "Pruned alone")])
def test_what_was_not_asked_for_has_no_section(kind, left):
    some = Sensitivity(**{**vars(FOUND), "layers": tuple(each for each in FOUND.layers if each.kind == kind)})
    words = " ".join(Text(html(some)).texts)
    assert left in words
    assert ("Pruned alone" in words) != ("Quantized alone" in words)


def test_the_csv_has_a_line_for_every_row():
    lines = [*csv.reader(io.StringIO(as_csv(FOUND)))]
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == 7
    assert lines[2] == ["blocks.0.ffn.up", "quantize", "int4-g128", "0.0003", "0.00015", "0.0006", "1500", "0.002",
                        "0.001", "0.003"]  # fmt: skip


def test_rows_are_found_by_their_layer_and_by_their_change():
    assert [*FOUND.changes] == ["int8", "int4-g128", "25% of heads", "25% of units"]
    assert by_layer(FOUND.layers)["blocks.0.ffn.down"]["int8"].kl == 2e-6
