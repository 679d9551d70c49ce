"""Drift of what users see, as tables: the sampling distribution, pictures of the same noise, and pictures as sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from compress.measure import Measure, measures
from compress.measure.drift.sampled import Sampled
from compress.measure.pictures.distribution import Distances, Distribution
from compress.measure.quantity import Quantity, interval_of, quantities
from compress.report import Report
from compress.report.text.cells import ABSENT

FLOOR = "the reference in bf16"  # whose drift the noise floor holds
Rows = list[tuple[str, ...]]


class Table(NamedTuple):
    """One table of a report, without rows where nothing of it was measured."""

    title: str
    caption: str
    headers: tuple[str, ...]
    rows: Callable[[Report], Rows]


def table_of(measure: type[Measure]) -> Table:
    """The table of a measure: a column for each quantity that has a heading; the noise floor stands last."""
    columns = [(name, found) for name, found in quantities(measure) if found.column]

    def rows(report: Report) -> Rows:
        measured = [(model.name, model.result(measure.name)) for model in (*report.steps, *report.engines)]
        if any(found is not None for _, found in measured):
            measured.append((FLOOR, getattr(report.floor, measure.name, None)))
        return [
            (name, *(cell(found, field, each) for field, each in columns))
            for name, found in measured
            if isinstance(found, measure)
        ]

    title = measure.title or measure.words().capitalize()
    said = measure.caption or str(measure.__doc__).splitlines()[0].rstrip(".")
    return Table(title, said, ("model", *(each.column for _, each in columns)), rows)


def cell(found: Measure, field: str, each: Quantity) -> str:
    """One quantity of a result."""
    value = getattr(found, field)
    return ABSENT if value is None else each.cell(value, interval_of(found, field))


def tables() -> tuple[Table, ...]:
    """Every table: those here, then that of every other measure whose quantities have headings."""
    others = [each for each in measures() if each is not Sampled and any(found.column for _, found in quantities(each))]
    return (*TABLES, *map(table_of, others))


def of_same_noise(report: Report) -> Rows:
    """Free running with common random numbers; the noise floor stands last."""
    measured = [(engine.name, engine.coupled) for engine in report.engines]
    floor = (
        [("the reference's export", report.floor.coupled)] if report.floor and any(each for _, each in measured) else []
    )
    return [
        (
            name,
            str(found.pictures),
            share(found.identical, found.identical_ci95),
            " / ".join(map(str, found.first_divergence)) + f" of {found.tokens}",
            share(found.edit_rate, found.edit_rate_ci95),
        )
        for name, found in (*measured, *floor)
        if found is not None
    ]


def as_sets(report: Report) -> Rows:
    """Distances of sets of pictures; below each engine the reference against itself."""
    rows: Rows = []
    for engine in report.engines:
        if (found := engine.distribution) is not None:
            rows.append((engine.name, *distances(found, found.own)))
            rows.append(("the reference against itself", *distances(found, found.floor)))
    return rows


def distances(found: Distribution, one: Distances) -> tuple[str, ...]:
    """The cells of one set."""
    return (
        found.distance,
        interval(one.frechet, one.frechet_ci95),
        interval(one.kid, one.kid_ci95),
        *(f"{value:.3f}" for value in (one.precision, one.recall, one.density, one.coverage)),
        f"{one.unigram:.2g}",
        f"{one.bigram:.2g}",
    )


def interval(value: float, ci95: tuple[float, float]) -> str:
    """A number with its interval."""
    return f"{value:.3g} ({ci95[0]:.3g} to {ci95[1]:.3g})"


def share(value: float, ci95: tuple[float, float]) -> str:
    """A share with its interval, in percent."""
    return f"{100 * value:.1f} ({100 * ci95[0]:.1f} to {100 * ci95[1]:.1f})"


TABLES = (
    table_of(Sampled),
    Table(
        "The same noise",
        "Pictures of the same classes and the same noise by the reference and by an engine",
        ("model", "pictures", "identical %", "first different token, quartiles", "different tokens %"),
        of_same_noise,
    ),
    Table(
        "Pictures as sets",
        "Drawn with another seed than the reference's; equal models are not 0 apart, as the second row shows",
        ("model", "features", "Frechet", "KID", "precision", "recall", "density", "coverage", "unigram", "bigram"),
        as_sets,
    ),
)
