"""A report as one self-contained page: no network, no other file, nothing that runs but the script it names by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from compress.core import durable
from compress.report import Report
from compress.report.data.outcomes import earlier
from compress.report.page.markup import Markup, element, join
from compress.report.page.sections import SECTIONS, Shown
from compress.report.text.table import headline

PAGE = "report.html"
HERE = Path(__file__).parent


def write(report: Report, folder: Path, path: Path | None = None) -> Path:
    """Write the report of a run's folder as a page, there or at a path; where it lies.

    The pictures are read from the folder; those that are missing are left out.
    """
    path = path or folder / PAGE
    durable.write_text(path, html(report, folder))
    return path


def html(report: Report, folder: Path) -> str:
    """The page of a run, whose pictures and history lie in the folder."""
    shown = Shown(report, folder, tuple(earlier(folder)))
    found = [(place, title, made) for place, title, section in SECTIONS if (made := section(shown))]
    state = "passed" if report.verdict.passed else "failed"
    breaches = [element("li", breach.text) for breach in report.verdict.breaches]
    name = str(report.recipe.get("name", folder.name))
    head = element(
        "header",
        element("p", f"compress: {name}", class_="note"),
        element("h1", element("span", headline(report).capitalize(), class_=state)),
        element("ul", *breaches, class_="breaches") if breaches else None,
    )
    return page(f"{name}: {headline(report)}", head, found)


def picture(plot: Markup) -> str:
    """A plot as an SVG file of its own, with the page's colours."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    head, _, rest = plot.partition(">")
    own = ".plot { background: var(--paper); font-family: sans-serif; }"
    return f'{head} xmlns="http://www.w3.org/2000/svg">{element("style", Markup(style + own))}{rest}\n'


def page(title: str, head: Markup, sections: Iterable[tuple[str, str, Markup]]) -> str:
    """A whole page of sections: each has a fragment, a heading and what it holds."""
    sections = list(sections)
    links = [element("li", element("a", heading, href=f"#{place}")) for place, heading, _ in sections]
    bodies = [
        element(
            "section", element("h2", heading, id=f"{place}-title"), made, id=place, aria_labelledby=f"{place}-title"
        )
        for place, heading, made in sections
    ]
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{known}'"
    document = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(style)),
        ),
        element(
            "body",
            element("a", "To the content", href="#content", class_="skip"),
            head,
            element("nav", element("ul", *links), aria_label="Sections"),
            element("main", join(bodies), id="content"),
            element("script", Markup(script)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{document}\n"
