"""Every number of a measurement as text: one row for each field of its dataclass, with its interval and its meaning.

What is measured anew appears here, and so in every page, without a word of code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

from compress.measure.quantity import INTERVAL, interval_of, quantities
from compress.report.text.cells import ABSENT


class Number(NamedTuple):
    """One number for a person to read."""

    name: str
    value: str
    interval: str
    meaning: str


def numbers(measured: Any) -> list[Number]:
    """The scalar fields of a dataclass, in their order; fields that hold more than one number are left out."""
    found = []
    for field in dataclasses.fields(measured):
        value = getattr(measured, field.name)
        if field.name.endswith(INTERVAL) or not isinstance(value, (bool, int, float, str)):
            continue
        interval = getattr(measured, field.name + INTERVAL, None)
        found.append(Number(field.name, said(value), between(interval), field.metadata.get("doc", "")))
    return found


def blocks(measurement: Any) -> Iterator[tuple[str, Any]]:
    """What was measured of a model: each field that is a dataclass of its own, and each further measure."""
    own = {field.name: getattr(measurement, field.name) for field in dataclasses.fields(measurement)}
    for name, value in (own | own["measures"]).items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield name, value


def numbers_of(result: Any) -> Iterator[tuple[str, float, tuple[float, float] | None]]:
    """The quantities of a result that were measured: name, value, and interval if there is one."""
    for name, _ in quantities(result):
        if (value := getattr(result, name)) is not None:
            yield name, value, interval_of(result, name)


def said(value: bool | int | float | str) -> str:
    """A value to five significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value) or ABSENT


def between(interval: tuple[float, float] | None) -> str:
    """An interval, or nothing."""
    return "" if interval is None else f"{interval[0]:.5g} to {interval[1]:.5g}"
