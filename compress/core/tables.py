"""Tables that fit the console: columns are left out before a word is broken or a number cut."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 2  # spaces between columns
COMFORT = 20  # a column of sentences is not made narrower while another column can go
NUMBER = re.compile(r"[-+<]?[0-9][0-9.,]*(e[-+]?[0-9]+)?( ?(%|x|k|[kMG]?B|[KM]iB|M|G|h|s|ms|dB))?( \(.*\))?|[–-]?")


@dataclass(frozen=True)
class Fit:
    """The columns that are shown, by their places, with their widths; none where no table fits at all."""

    places: tuple[int, ...]
    widths: tuple[int, ...]


def fit(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int, least: Sequence[str] = ()) -> Fit:
    """Choose what fits into `width` characters.

    Columns named in `least` are left out first, in that order, then all others between the first and the last one, from
    the right. The first column always stays. A column is wrapped between words, one of numbers only before a bracket.
    """
    columns = [[header, *(row[place] for row in rows)] for place, header in enumerate(headers)]
    widest = [max(map(length, cells)) for cells in columns]
    narrowest = [max(length(word) for cell in cells for word in (unbroken(cell) or [""])) for cells in columns]
    wanted = [
        low if numeric(cells[1:]) else max(low, min(high, COMFORT))
        for cells, low, high in zip(columns, narrowest, widest, strict=True)
    ]
    shown, order = list(range(len(columns))), droppable(headers, least)
    for floor in (wanted, narrowest):
        while taken(floor, shown) > width and order:
            shown.remove(order.pop(0))
        if taken(floor, shown) <= width:
            return Fit(tuple(shown), tuple(grown(shown, floor, widest, width)))
    return Fit((), ())


def droppable(headers: Sequence[str], least: Sequence[str]) -> list[int]:
    """The places of the columns that can go, those to go first in front."""
    named = [headers.index(name) for name in least if name in headers[1:]]
    return named + [place for place in range(len(headers) - 2, 0, -1) if place not in named]


def taken(widths: Sequence[int], places: Sequence[int]) -> int:
    """Characters of a line of these columns."""
    return sum(widths[place] for place in places) + GAP * (len(places) - 1)


def grown(places: Sequence[int], floor: Sequence[int], widest: Sequence[int], width: int) -> list[int]:
    """Widths of the columns: each as wide as it likes, the widest ones narrower until the line fits."""
    found = {place: widest[place] for place in places}
    while (over := sum(found.values()) + GAP * (len(places) - 1) - width) > 0:
        first, *others = sorted((place for place in places if found[place] > floor[place]), key=found.__getitem__)[::-1]
        next_to = found[others[0]] if others else 0
        found[first] -= max(1, min(over, found[first] - max(floor[first], next_to)))
    return [found[place] for place in places]


def length(text: str) -> int:
    """Columns of the terminal that a text takes in one line."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def unbroken(cell: str) -> list[str]:
    """The parts of a cell that stay on one line."""
    return re.split(r"\s+(?=\()", cell) if NUMBER.fullmatch(cell) else cell.split()


def numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers alone, or nothing."""
    return any(cells) and all(NUMBER.fullmatch(cell) for cell in cells)


def table(
    title: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    least: Sequence[str] = (),
    elsewhere: str = "--json has all",
    styles: Mapping[int, str] | None = None,
    sections: Sequence[int] = (),
) -> RenderableType:
    """A table of at most `width` characters, for rich to print; what is left out is said below.

    Where not even the columns that always stay fit, each row is a short list. `styles` are those of rows by their
    index; behind the rows of `sections` there is a line.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    heading = [Text(line, style="bold") for line in lines_of(title, width)]
    fitted = fit(headers, rows, width, least) if rows else Fit((), ())
    if not rows:
        return Group(*heading, Text("  none"))
    if not fitted.places:
        return Group(*heading, *(Text(line) for line in listed(headers, rows, width)))
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, show_header=any(headers))
    numbers = [numeric([row[place] for row in rows]) for place in fitted.places]
    for place, wide, number in zip(fitted.places, fitted.widths, numbers, strict=True):
        made.add_column(Text(headers[place]), justify="right" if number else "left", width=wide, overflow="fold")
    for index, row in enumerate(rows):
        cells = [
            Text("\n".join(unbroken(row[place])) if number and length(row[place]) > wide else row[place])
            for place, wide, number in zip(fitted.places, fitted.widths, numbers, strict=True)
        ]
        made.add_row(*cells, style=(styles or {}).get(index, ""), end_section=index in sections)
    absent = [header or "the unnamed column" for place, header in enumerate(headers) if place not in fitted.places]
    note = lines_of(f"left out: {', '.join(absent)}; {elsewhere}", width) if absent else []
    return Group(*heading, made, *(Text(line, style="dim") for line in note))


def lines_of(text: str, width: int, indent: str = "") -> list[str]:
    """A text in lines of whole words; a word that is longer than a line, such as a path, stays whole."""
    return textwrap.wrap(
        text, max(width, len(indent) + 1), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def listed(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Rows as lists of their cells."""
    said: list[str] = []
    for row in rows:
        said += lines_of(row[0], width)
        for header, cell in zip(headers[1:], row[1:], strict=True):
            if cell:
                said += lines_of(f"  {f'{header}: ' if header else ''}{cell}", width, "    ")
    return said
