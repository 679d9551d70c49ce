"""Several runs side by side: their engines, drift against latency, and what differs in their recipes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.core.settings import plain
from compress.measure.speed.timing import words
from compress.report import Report
from compress.report.data.outcomes import Outcome, outcome
from compress.report.page.figures import RELATIVE_TIME, figure, relative
from compress.report.page.html import page
from compress.report.page.markup import Markup, element, table
from compress.report.page.plots import SERIES, Bubble, bubbles
from compress.report.text.cells import ABSENT, signed_percent, size
from export.runtime.counted import counted

HEADERS = ("run", "engine", "gates", "size", "NLL drift %", "KL", "ms/token", "vs reference")
Runs = Mapping[str, Report]  # by the folder's name


def outcomes(runs: Runs) -> dict[str, list[Outcome]]:
    """The engines of each run."""
    return {name: [outcome(engine, report) for engine in report.engines] for name, report in runs.items()}


def rows(runs: Runs) -> list[list[str]]:
    """A row for each engine, as HEADERS names its cells."""
    return [[name, *cells(each)] for name, found in outcomes(runs).items() for each in found]


def cells(found: Outcome) -> list[str]:
    """One engine of one run as cells of a table."""
    drift = ABSENT
    if found.nll_drift is not None and found.nll_drift_ci95 is not None:
        drift = signed_percent(found.nll_drift, found.nll_drift_ci95)
    return [
        found.engine,
        "kept" if found.passed else "breached",
        size(found.size_bytes),
        drift,
        ABSENT if found.kl is None else f"{found.kl:.3g}",
        ABSENT if found.ms_per_token is None else f"{found.ms_per_token:.3f}",
        words(found.speedup, found.speedup_ci95),
    ]


def differences(runs: Runs) -> list[list[str]]:
    """What the recipes and the machines do not have in common: its place, and what stands there in each run."""
    found = []
    for part in ("recipe", "environment"):
        flat = [dict(leaves(getattr(report, part), part)) for report in runs.values()]
        for place in dict.fromkeys(place for each in flat for place in each):
            said = [each.get(place, ABSENT) for each in flat]
            if len(set(said)) > 1:
                found.append([place, *said])
    return found


def leaves(value: Any, place: str) -> list[tuple[str, str]]:
    """Every value that is said inside of a mapping or a list, with its place; null and what is empty are not."""
    value = value if isinstance(value, (dict, list, str, int, float, bool, type(None))) else plain(value)
    if isinstance(value, dict) and value:
        return [leaf for key, each in value.items() for leaf in leaves(each, f"{place}.{key}")]
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [leaf for index, each in enumerate(value) for leaf in leaves(each, f"{place}[{index}]")]
    if value is None or value in ([], {}, ""):
        return []
    return [(place, f"{value:g}" if isinstance(value, float) else str(value))]


def html(runs: Runs) -> str:
    """A page of its own, as that of one run."""
    title = f"{counted(len(runs), 'run')}: {', '.join(runs)}"
    head = element("header", element("p", "compress", class_="note"), element("h1", title))
    apart = differences(runs)
    notes = [element("p", "Speedups are each against the reference of its own run.", class_="note")]
    if any(place.startswith("environment") for place, *_ in apart):
        notes.append(element("p", "The runs were not measured on the same machine with the same libraries: compare "
                                  "speedups and drift, not milliseconds."))  # fmt: skip
    engines = element("div", table(HEADERS, rows(runs), caption="Engines", words=("run", "engine")), *notes)
    sections = [("engines", "Engines", engines)]
    if (plot := trade(runs)) is not None:
        sections.append(("trade", "Drift against latency", plot))
    same = element("p", "Nothing differs.")
    differs = table(("place", *runs), apart, caption="Only what differs is shown", words=tuple(runs)) if apart else same
    return page(title, head, [*sections, ("differences", "What differs in recipes and machines", differs)])


def trade(runs: Runs) -> Markup | None:
    """Drift against latency of the engines of every run, a colour for each run."""
    points: list[Bubble] = []
    items: list[tuple[str, ...]] = []
    for series, (name, found) in enumerate(outcomes(runs).items()):
        for each in found:
            if each.speedup is None or each.kl is None:
                continue
            share, times = relative(each.speedup, each.speedup_ci95)
            mark = str(len(points) + 1)
            items.append((mark, name, each.engine, f"{share:.3g}", f"{each.kl:.3g}", size(each.size_bytes)))
            title = f"{each.engine} of {name}: KL {each.kl:.3g} nats, {share:.3g} of its reference's time"
            points.append(
                Bubble(share, each.kl, each.size_bytes, mark, title, each.kl_ci95, "engine", series % SERIES, times)
            )
    if not points:
        return None
    title = "Drift against latency of the engines"
    key = element(
        "ul", *(element("li", element("b", mark), f" {engine} of {run}") for mark, run, engine, *_ in items),
        class_="legend",
    )  # fmt: skip
    return figure(
        bubbles(points, title, RELATIVE_TIME, "KL from the run's reference, nats per token"),
        "Lower left is better; the area of a bubble is its size on disk, its colour tells the run. The broken line "
        "joins what nothing else measurably beats.",
        table(
            ("", "run", "engine", "time / reference's", "KL, nats", "size"),
            items,
            caption=title,
            words=("run", "engine"),
        ),
        None,
        key=key,
        alone=True,
    )
