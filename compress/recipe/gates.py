"""Gates: limits on what is measured; their keys are those of the measures' quantities.

`python -m compress.recipe.gates` prints the table of all keys; docs/measuring.md holds it, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, Literal

from compress.core.settings import MOST_BATCH, InputError, bound, inside, parse, setting
from compress.measure import Measure, Measurement, measures
from compress.measure.measure import Stage
from compress.measure.quantity import INTERVAL, Finding, Limit, Quantity, quantities
from compress.measure.speed.timing import SpeedRow

KEY = "key"  # its place in the metadata of a gate's field


@dataclass(frozen=True)
class Key:
    """A key of a gate: the quantity that it limits, by its field, and whose field that is."""

    quantity: Quantity
    limit: Limit
    field: str
    of: type[Any]

    @property
    def measure(self) -> type[Measure] | None:
        """The measure that finds it; None of the size and of rows of speed, which are measured on their own."""
        return self.of if issubclass(self.of, Measure) else None

    @property
    def stage(self) -> Stage:
        """What it is measured of."""
        return self.measure.stage if self.measure else "steps"

    @property
    def verified(self) -> bool:
        """Whether `compress verify` measures it, always or where it is limited."""
        return self.measure is not None and self.measure.verified != "never"

    @property
    def deployed(self) -> bool:
        """Whether it is measured on the runtime alone that an engine is for."""
        return self.of is SpeedRow or (self.measure is not None and self.measure.deployed)

    @property
    def has_interval(self) -> bool:
        """Whether it is judged by the end of an interval."""
        return self.field == "ms_per_token" or any(each.name == self.field + INTERVAL for each in fields(self.of))

    def findings(self, row: Measurement, gate: Gate) -> Iterator[Finding]:
        """What a row of a report has to say of it: nothing, one finding, or one for each row of speed."""
        if self.measure is not None:
            yield from self.measure.findings(row, self.field)
        elif self.of is SpeedRow:
            smallest = min((other.batch for other in row.speed), default=0)
            for each in row.speed:
                yield from in_row_of_speed(self.limit.key, gate, each, smallest)
        elif (value := getattr(row, self.field)) is not None:
            yield Finding(value)


def in_row_of_speed(key: str, gate: Gate, row: SpeedRow, smallest: int) -> Iterator[Finding]:
    """What one row of speed has to say of a gate's key."""
    place = f" at batch {row.batch}"
    if key == "speedup" and row.speedup_vs_reference is not None and gate.speedup_batch in (None, row.batch):
        yield Finding(row.speedup_vs_reference, row.speedup_vs_reference_ci95, place)
    elif key == "latency_ms" and row.batch == smallest:
        per_token = row.ms_per_token / row.median_ms
        yield Finding(row.ms_per_token, (row.ci95[0] * per_token, row.ci95[1] * per_token), place)
    elif key == "peak_mib" and row.peak_mib is not None:
        yield Finding(row.peak_mib, None, place)


@dataclass(frozen=True)
class Gate:
    """Limits that a measurement must keep; those left out are not judged. `gate` makes one with a field for each key.

    Shares may be written as percentages: `nll_drift: 2%` is 0.02.
    """

    speedup_batch: int | None = setting(
        None, doc="batch that speedup is judged at; every one timed if left out", low=1, high=MOST_BATCH
    )
    decide: Literal["interval", "estimate"] = setting(
        "interval", doc="judge the unfavourable end of the 95 % interval, or the estimate itself"
    )
    unmeasured: Literal["breach", "kept"] = setting(
        "breach", doc="what a limit is whose quantity was not measured, as of an engine that has no image encoder"
    )

    @property
    def limits(self) -> dict[Key, float]:
        """The keys that limit something, with their limits."""
        found = ((each.metadata.get(KEY), getattr(self, each.name)) for each in fields(self))
        return {key: limit for key, limit in found if key is not None and limit is not None}

    def asks_for(self, measure: type[Measure]) -> bool:
        """Whether it limits something that this measure finds."""
        return any(key.measure is measure for key in self.limits)

    @property
    def judges_drift(self) -> bool:
        """Whether a limit of it is on drift from the reference's predictions."""
        return any(key.limit.evidence for key in self.limits)


def keys() -> tuple[Key, ...]:
    """Every key of a gate, measure by measure.

    Raises:
        InputError: a measure of a third party has a key that is taken.
    """
    taken = {each.name for each in fields(Gate)}
    found = []
    for cls in (*(each for each in measures() if each.gated), SpeedRow, Measurement):
        for name, quantity in quantities(cls):
            if quantity.gate is None:
                continue
            if quantity.gate.key in taken:
                raise InputError(
                    f"measure '{cls.__name__}': its gate '{quantity.gate.key}' is taken; give it another key"
                )
            taken.add(quantity.gate.key)
            found.append(Key(quantity, quantity.gate, name, cls))
    return tuple(found)


def gate_class() -> type[Gate]:
    """`Gate` with a field for each key."""
    return _with_fields(keys())


@cache
def _with_fields(found: tuple[Key, ...]) -> type[Gate]:
    made = []
    for key in found:
        limit = key.limit
        known = setting(None, doc=limit.doc, low=limit.low, high=limit.high).metadata
        made.append((limit.key, "float | None", field(default=None, metadata={**known, KEY: key})))
    return make_dataclass("Gate", made, bases=(Gate,), frozen=True)


def gate(**limits: Any) -> Gate:
    """A gate of these limits: `gate(nll_drift=0.02, speedup=1.5)`."""
    return gate_class()(**limits)


def read_gate(value: object, where: str) -> Gate:
    """A gate that limits something; `where` names its place.

    Raises:
        InputError: a key is unknown, a limit is out of range, or there is no limit at all.
    """
    found = parse(gate_class(), value, where)
    if not found.limits:
        place = where.removesuffix(":")
        raise InputError(
            f"{place}: this gate limits nothing; write a limit, for example  nll_drift: 2%, or leave it out"
        )
    if found.speedup_batch is not None and "speedup" not in {key.limit.key for key in found.limits}:
        raise InputError(f"{inside(where, 'speedup_batch')}: goes with speedup, which has no limit here")
    return found


VERIFIED = {"always": "yes", "asked": "where limited", "never": ""}
WHERE = {"steps": "every step", "graphs": "steps behind the export", "engines": "engines"}


def table() -> list[str]:
    """The table of all keys in Markdown, for docs/measuring.md."""
    lines = ["| key | unit | limit | judged | measured of | `verify` |", "| --- | --- | --- | --- | --- | --- |"]
    for key in keys():
        limit, better = key.limit, key.quantity.better
        reach = f"at least {bound(limit.low)}" if limit.high is None else f"{bound(limit.low)} to {bound(limit.high)}"
        unit = {"plain": "number", "percent": "share", "points": "share", "times": "ratio"}.get(
            key.quantity.unit, key.quantity.unit
        )
        end = f"{'upper' if better == 'lower' else 'lower'} end" if key.has_interval else "as it is"
        doc = limit.doc.replace("|", chr(92) + "|")
        verified = VERIFIED[key.measure.verified] if key.measure else ""
        cells = (f"`{limit.key}`", f"{unit} [{reach}]", doc, end, WHERE[key.stage], verified)
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
