"""Markup that cannot be broken by what it shows: elements escape every text and attribute that is not markup itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from compress.core.tables import unbroken as parts_of

Attribute = str | float | bool | None


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


class Table(Markup):
    """A table as markup, which keeps its cells for whoever writes them into a file."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


VOID = ("br", "img", "input", "meta", "circle", "line", "path", "polygon", "polyline", "rect")


def element(name: str, /, *children: str | None, **attributes: Attribute) -> Markup:
    """An element; None is left out of children and attributes, `class_` and `stroke_width` become as HTML writes them.

    A float has at most two decimals, which is a hundredth of a pixel.
    """
    written = "".join(f" {spelled(key)}{quoted(value)}" for key, value in attributes.items() if spoken(value))
    if name in VOID and not children:
        return Markup(f"<{name}{written}>" if name in VOID[:4] else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str | None], between: str = "") -> Markup:
    """Children one after the other; those that are not markup are escaped."""
    return Markup(between.join(child if isinstance(child, Markup) else escape(child) for child in children if child))


def spoken(value: Attribute) -> bool:
    """Whether an attribute is written at all."""
    return value is not None and value is not False


def spelled(key: str) -> str:
    """An attribute's name as HTML spells it."""
    return key.rstrip("_").replace("_", "-")


def quoted(value: Attribute) -> str:
    """An attribute's value with its sign of equality; a true one has none."""
    if value is True:
        return ""
    return f'="{escape(trimmed(value) if isinstance(value, float) else str(value))}"'


def trimmed(value: float) -> str:
    """A coordinate without zeros at its end."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def table(
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    words: Sequence[str] = (),
    fits: bool = False,
) -> Table:
    """A table that scrolls inside itself, with its caption; the columns named in `words` are to the left.

    One that `fits` wraps its cells on a page of usual width; on a telephone each row becomes a block of lines, a name
    and a value each. The first cell of a row is its header. A region that scrolls must be reached by keyboard, hence
    the tabindex.
    """
    rows = list(rows)
    left = [header in words or index == 0 for index, header in enumerate(headers)]
    head = element(
        "tr",
        *(element("th", h, scope="col", class_="word" if left[i] else None) for i, h in enumerate(headers)),
    )
    body = [
        element(
            "tr",
            *(
                element("th", cell, scope="row")
                if i == 0
                else element(
                    "td",
                    unbroken(cell) if fits else cell,
                    class_="word" if left[i] else None,
                    data_label=headers[i] if fits else None,
                )
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    inner = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    made = Table(
        element(
            "div", inner, class_="scroll fits" if fits else "scroll", tabindex="0", role="region", aria_label=caption
        )
    )
    made.headers, made.rows, made.caption = headers, rows, caption
    return made


def unbroken(cell: str) -> str:
    """A cell in which a number keeps its unit, and an interval is whole: lines end between the two alone."""
    return " ".join(part.replace(" ", "\u00a0") for part in parts_of(cell))
