"""Tables that fit the console."""

from __future__ import annotations

import pytest
from rich.console import Console

from compress.core.tables import fit, lines_of, table

HEADERS = ("model", "parameters", "drift %", "ms/token", "what it draws")
ROWS = (
    ("digits", "6.44 M", "+0.52 (+0.12 to +0.91)", "0.469", "8x8 tokens of 17, in 10 classes"),
    ("emoji-masked", "4.31 M", "-1.25 (-2.10 to -0.31)", "12.250", "16x16 tokens of 1024, in 10 classes"),
)


def printed(width: int, **more: object) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table("shipped models", HEADERS, ROWS, width, **more))  # type: ignore[arg-type]
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_every_column_is_shown_where_there_is_room() -> None:
    assert fit(HEADERS, ROWS, 120).places == (0, 1, 2, 3, 4)
    assert not any("left out" in line for line in printed(120))


def test_the_least_important_columns_go_first_and_are_named() -> None:
    lines = printed(66, least=("parameters",), elsewhere="report.md has all")
    assert lines[1].split() == ["model", "drift", "%", "ms/token", "what", "it", "draws"]
    assert lines[-1] == "left out: parameters; report.md has all"


def test_without_an_order_columns_go_from_the_right_but_for_the_first_and_the_last() -> None:
    assert fit(HEADERS, ROWS, 48).places == (0, 1, 4)
    assert fit(HEADERS, ROWS, 36).places == (0, 4)


@pytest.mark.parametrize("width", range(13, 100))
def test_no_word_is_broken_no_number_cut_and_no_line_too_long(width: int) -> None:
    lines = printed(width)
    assert all(len(line) <= max(width, len("emoji-masked")) for line in lines)
    words = {word for row in (HEADERS, *ROWS) for cell in row for word in cell.split()}
    said = {word.strip(",;:") for line in lines for word in line.split()} - {"─" * n for n in range(200)}
    known = {word.strip(",;:") for word in words} | {"shipped", "models", "left", "out", "--json", "has", "all"}
    assert said <= known


def test_where_no_table_fits_a_row_is_a_list() -> None:
    lines = printed(20)
    assert lines[:3] == ["shipped models", "digits", "  parameters: 6.44 M"]


def test_numbers_stand_on_the_right_and_an_interval_wraps_before_its_bracket() -> None:
    lines = printed(75)
    (row,) = (place for place, line in enumerate(lines) if line.startswith("digits"))
    assert "+0.52  " in lines[row]
    assert "(+0.12 to +0.91)" in lines[row + 1]
    widths = [line.index("0.469") + 5 for line in lines if "0.469" in line]
    assert widths == [line.index("12.250") + 6 for line in lines if "12.250" in line]


def test_a_path_longer_than_a_line_stays_whole() -> None:
    assert lines_of("the page lies in /a/very/long/folder/of/runs/report.html now", 20)[1] == (
        "/a/very/long/folder/of/runs/report.html"
    )


def test_a_table_without_rows_says_so() -> None:
    console = Console(width=40, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table("empty", HEADERS, [], 40))
    assert console.export_text().split() == ["empty", "none"]
