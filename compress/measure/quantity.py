"""A quantity is a field of a result: its unit, which way is better, the gate that limits it, its column in reports."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from compress.core.settings import setting

Unit = Literal["percent", "points", "times", "nats", "bits", "dB", "ms", "MiB", "plain"]
QUANTITY = "quantity"  # its place in a field's metadata
INTERVAL = "_ci95"  # ends the name of the field that holds a quantity's 95 % interval


@dataclass(frozen=True)
class Limit:
    """A gate on a quantity: its key in recipes, what it says, and the closed range of what it may be."""

    key: str
    doc: str
    low: float = 0
    high: float | None = None
    evidence: bool = False  # it says something only where the reference's predictions can show drift


@dataclass(frozen=True)
class Quantity:
    """A number's unit and direction; its gate and the heading of its column, where it has them."""

    unit: Unit
    better: Literal["lower", "higher"]
    gate: Limit | None = None
    column: str = ""

    def words(self, value: float, digits: int = 3) -> str:
        """The value in its unit, to so many significant digits."""
        if self.unit in ("percent", "points"):
            return f"{100 * value:.{digits}g} {'%' if self.unit == 'percent' else 'points'}"
        if self.unit == "times":
            return f"{value:.{digits}g}x"
        return f"{value:.{digits}g}" if self.unit == "plain" else f"{value:.{digits}g} {self.unit}"

    def cell(self, value: float, interval: tuple[float, float] | None) -> str:
        """The value in a table whose heading says the unit, with its interval if it has one."""
        if self.unit not in ("percent", "points"):
            return f"{value:.3g}" + (f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else "")
        if interval is None:
            return f"{100 * value:.2f}"
        return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


@dataclass(frozen=True)
class Finding:
    """One number to judge, with its 95 % interval if it has one, and where it was measured."""

    value: float
    interval: tuple[float, float] | None = None
    place: str = ""


def quantity(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    unit: Unit = "plain",
    better: Literal["lower", "higher"] = "lower",
    gate: Limit | None = None,
    column: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of a result that holds a quantity; its 95 % interval, if any, is the field of that name and ``_ci95``.

    `column` is the heading of its column in the table of its measure; without one it has none. `low` and `high` are
    what a stored result may hold, `gate` has the range of the limit.
    """
    metadata = {QUANTITY: Quantity(unit, better, gate, column)}
    return dataclasses.field(default=default, metadata={**setting(doc=doc, low=low, high=high).metadata, **metadata})


def quantities(result: Any) -> list[tuple[str, Quantity]]:
    """The quantities of a result or its class, by the names of their fields."""
    return [
        (field.name, field.metadata[QUANTITY]) for field in dataclasses.fields(result) if QUANTITY in field.metadata
    ]


def interval_of(result: Any, name: str) -> tuple[float, float] | None:
    """The 95 % interval of a quantity of a result; None where it has none."""
    found: tuple[float, float] | None = getattr(result, name + INTERVAL, None)
    return found
