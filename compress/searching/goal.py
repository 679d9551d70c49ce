"""What a search is for: what is made small, and the budgets that must be kept, which are a gate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.measure import Measurement
from compress.measure.measure import Measure
from compress.measure.quantity import Finding
from compress.recipe.gates import Gate, Key, keys, read_gate
from compress.recipe.verdict import unfavourable
from compress.searching.limits import LATENCY, SIZE, bytes_of, limits_of
from compress.searching.quantities import check_objective


@dataclass(frozen=True)
class Objective:
    """A quantity that a search makes small: `latency`, or a key of a gate that is better the lower it is."""

    name: str
    key: Key

    @property
    def title(self) -> str:
        """What axes and tables call it."""
        return "time / reference's" if self.name == LATENCY else self.name

    def finding(self, row: Measurement, gate: Gate) -> Finding | None:
        """What a measured row says of it.

        The latency is the time of a picture at the smallest batch, as a share of that of the reference's engine in the
        same rounds: trials are hours apart, and a machine's speed wanders.
        """
        if self.name != LATENCY:
            return next(iter(self.key.findings(row, gate)), None)
        timed = min(row.speed, key=lambda each: each.batch, default=None)
        if timed is None or timed.speedup_vs_reference is None:
            return None
        low, high = timed.speedup_vs_reference_ci95 or (timed.speedup_vs_reference,) * 2
        return Finding(1 / timed.speedup_vs_reference, (1 / high, 1 / low))

    def words(self, value: float) -> str:
        """A value in its unit."""
        return f"{value:.3g} of the reference's time" if self.name == LATENCY else self.key.quantity.words(value)


@dataclass(frozen=True)
class Goal:
    """The objectives, the first of which decides what is best, and the limits as a gate's mapping.

    `most_bytes` is a limit of the size that was given in bytes; `sized` makes a share of the reference's size of it.
    """

    objectives: tuple[Objective, ...]
    limits: Mapping[str, Any]
    most_bytes: float | None = None

    def sized(self, reference_bytes: int) -> Goal:
        """The same goal for a reference of so many bytes, which are those of its plain export."""
        if self.most_bytes is None:
            return self
        return replace(self, limits={**self.limits, SIZE: self.most_bytes / reference_bytes})

    @property
    def gate(self) -> Gate | None:
        """The limits as a gate; None without any."""
        return read_gate(dict(self.limits), "budget") if self.limits else None

    def judged(self) -> Iterator[tuple[Key, float]]:
        """Every limit with its key."""
        yield from (self.gate.limits if self.gate else {}).items()

    @property
    def measures(self) -> tuple[type[Measure], ...]:
        """What has to be measured, cheap before dear: of the logits, of the graphs, of what is drawn."""
        stages = ("steps", "graphs", "engines")
        wanted = [key for key, _ in self.judged()] + [each.key for each in self.objectives]
        found = dict.fromkeys(key.measure for key in wanted if key.measure is not None)
        return tuple(sorted(found, key=lambda each: (each.deployed, stages.index(each.stage))))

    @property
    def timed(self) -> bool:
        """Whether trials are timed."""
        wanted = [key for key, _ in self.judged()] + [each.key for each in self.objectives]
        return any(key.deployed and key.measure is None for key in wanted)


def goal_of(budgets: Mapping[str, str], minimise: Sequence[str], gate: Mapping[str, Any]) -> Goal:
    """The goal that options and the gate of a space say, which `limits.check` held against each other.

    Raises:
        InputError: a quantity is unknown, or a limit is out of range.
    """
    found = tuple(objective(name) for name in minimise)
    limits, where = limits_of(budgets, gate)
    if limits:
        read_gate(limits, where)
    return Goal(found, limits, bytes_of(budgets))


def objective(name: str) -> Objective:
    """The objective of a name.

    Raises:
        InputError: no quantity has it, or it is better the higher it is.
    """
    known = {key.limit.key: key for key in keys()}
    if name == LATENCY:
        return Objective(name, known["latency_ms"])
    lower = [LATENCY, *(each for each, key in known.items() if key.quantity.better == "lower")]
    check_objective(name, [*known], lower)
    return Objective(name, known[name])


def excess(key: Key, value: float, limit: float) -> float:
    """By which share of a limit a value is beyond it; 0 where the limit is kept."""
    beyond = limit - value if key.quantity.better == "higher" else value - limit
    return max(beyond, 0.0) / abs(limit) if limit else max(beyond, 0.0)


def judged_value(key: Key, finding: Finding, gate: Gate) -> float:
    """What a gate judges of a finding."""
    return unfavourable(key, finding) if gate.decide == "interval" else finding.value
