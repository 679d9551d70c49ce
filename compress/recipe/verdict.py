"""The verdict: a measurement held against a gate; what breaks it is a list of breaches, never an exception."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from compress.core.settings import setting
from compress.measure import EngineMeasurement, Measurement, measures
from compress.measure.drift.evidence import LEAST_CONTRAST, Evidence
from compress.measure.measure import Stage
from compress.measure.quantity import Finding
from compress.measure.statistics import Estimate, pictures_needed
from compress.recipe.gates import Gate, Key


@dataclass(frozen=True)
class Breach:
    """One measurement that a gate does not let through."""

    step: str = setting(doc="the step's name")
    measurement: str = setting(doc="the gate's key")
    value: float | None = setting(doc="what was judged: the interval's end or the estimate; null if not measured")
    gate: float = setting(doc="the limit")
    text: str = setting(doc="the breach in one sentence")


@dataclass(frozen=True)
class Verdict:
    """Whether every gate was kept."""

    passed: bool = setting(doc="no gate was breached")
    breaches: tuple[Breach, ...] = setting(doc="every breach, in the order of the steps")

    @classmethod
    def of(cls, breaches: list[Breach]) -> Verdict:
        """The verdict that these breaches make."""
        return cls(not breaches, tuple(breaches))


def no_evidence(found: Evidence, step: str) -> Breach:
    """The breach of a comparison that cannot show drift: its gates are not kept, whatever was measured."""
    return Breach(step, "evidence", found.contrast, LEAST_CONTRAST, f"{step}: this is no evidence: {found.reason}")


def promised(row: Measurement, step: str, stages: Collection[Stage] = ("steps", "graphs", "engines")) -> list[Breach]:
    """Every promise of measures of these stages that a row does not keep: these are judged without a gate."""
    results = [(each, row.result(each.name)) for each in measures() if each.stage in stages]
    return [
        Breach(step, broken.measurement, broken.value, broken.limit, f"{step}: {broken.text}")
        for each, result in results
        if isinstance(result, each)
        for broken in result.broken()
    ]


def judge(gate: Gate, measurement: Measurement, step: str) -> list[Breach]:
    """Every breach of the gate by this measurement of the named step.

    Numbers that have a 95 % interval are judged by its unfavourable end (so a gate that holds has been shown to hold,
    non-inferiority), unless the gate says `decide: estimate`. What was gated but not measured is a breach,
    unless it says `unmeasured: kept`, or the engine was built for a runtime that is not on this machine.
    """
    breaches = []
    for key, limit in gate.limits.items():
        name, findings = key.limit.key, list(key.findings(measurement, gate))
        waits = key.deployed and isinstance(measurement, EngineMeasurement) and bool(measurement.not_run)
        if not findings and gate.unmeasured == "breach" and not waits:
            said = key.quantity.words(limit)
            text = f"{step}: {name} was not measured, so the gate's {said} cannot be shown to hold"
            breaches.append(Breach(step, name, None, limit, text))
        for finding in findings:
            judged = unfavourable(key, finding) if gate.decide == "interval" else finding.value
            kept = judged >= limit if key.quantity.better == "higher" else judged <= limit  # false for NaN as well
            if not kept:
                text = sentence(step, key, finding, judged, limit) + more_pictures(key, finding, limit, measurement)
                breaches.append(Breach(step, name, judged, limit, text))
    return breaches


def more_pictures(key: Key, finding: Finding, limit: float, measurement: Measurement) -> str:
    """How many pictures would show that the gate holds, where the estimate keeps it and only the interval does not."""
    room = finding.value - limit if key.quantity.better == "higher" else limit - finding.value
    if not key.limit.evidence or key.measure is None or finding.interval is None:
        return ""
    pictures = getattr(measurement.result(key.measure.name), "pictures", None)
    if pictures is None or not (room > 0 and math.isfinite(sum(finding.interval))):
        return ""
    needed = pictures_needed(Estimate(finding.value, *finding.interval), pictures, room)
    return f"; the estimate keeps it, and about {needed} pictures instead of {pictures} would show that"


def unfavourable(key: Key, finding: Finding) -> float:
    """The end of the interval that is worse for the candidate, or the value where there is no interval."""
    low, high = finding.interval or (finding.value, finding.value)
    return low if key.quantity.better == "higher" else high


def sentence(step: str, key: Key, finding: Finding, judged: float, limit: float) -> str:
    """The breach for a person to read; the interval's end is named where it, not the estimate, decides."""
    side, bound = ("below", "down") if key.quantity.better == "higher" else ("above", "up")
    say = key.quantity.words
    digits = next((n for n in range(3, 17) if say(judged, n) != say(limit, n)), 17)
    interval = f" (95 % interval {bound} to {say(judged, digits)})" if judged != finding.value else ""
    value = say(finding.value, digits)
    return f"{step}: {key.limit.key} {value}{finding.place}{interval} is {side} the gate's {say(limit, digits)}"
