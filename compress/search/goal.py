"""What a search is for: what is made small, and the budgets that must be kept, which are a gate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.settings import InputError, nearest, shown
from compress.measure import Measurement
from compress.measure.measure import Measure
from compress.measure.quantity import Finding
from compress.recipe.gates import Gate, Key, keys, read_gate
from compress.recipe.verdict import unfavourable

LATENCY = "latency"
RELATED = {LATENCY: ("latency_ms", "speedup")}  # the same time, as limits say it
SIZE = "size"
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BYTES = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(UNITS)})")


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
    """The objectives, the first of which decides what is best, and the limits as a gate's mapping."""

    objectives: tuple[Objective, ...]
    limits: Mapping[str, Any]

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


def pairs(budgets: Sequence[str]) -> dict[str, str]:
    """The limits of options like nll_drift=1%, by their quantity; nothing heavy is needed to find them wrong.

    Raises:
        InputError: one is no limit, or two are on one quantity.
    """
    found: dict[str, str] = {}
    for each in budgets:
        name, sign, limit = (part.strip() for part in each.partition("="))
        if not (name and sign and limit):
            raise InputError(f"--budget {shown(each)}: is no limit; write QUANTITY=LIMIT, for example nll_drift=1%")
        if name in found:
            raise InputError(f"--budget {name}: has two limits, {found[name]} and {limit}; give one")
        found[name] = limit
    return found


def goal_of(
    budgets: Mapping[str, str], minimise: Sequence[str], gate: Mapping[str, Any] | None, reference_bytes: float
) -> Goal:
    """The goal that options and the gate of a space say.

    `reference_bytes` is the size of the reference's plain export, of which a gate's `size` is a share.

    Raises:
        InputError: a quantity is unknown, has two limits, is both limited and made small, or nothing holds a search
            back.
    """
    objectives = [objective(name) for name in minimise]
    for index, each in enumerate(minimise):
        if each in minimise[:index]:
            raise InputError(f"--minimize {each}: stands twice")
    own = dict(gate or {})
    for name in budgets:
        if name in own:
            raise InputError(f"--budget {name}: has two limits, {budgets[name]} and the space's gate's {own[name]}")
    limits = {**own, **{name: limit_of(name, text, reference_bytes) for name, text in budgets.items()}}
    if limits:
        read_gate(limits, "--budget")
    for each in objectives:
        for name in (each.name, *RELATED.get(each.name, ())):
            if name in limits:
                where = f"--budget {name}" if name in budgets else f"gate.{name}"
                raise InputError(
                    f"{where}: {each.name} is made as small as it can be, so a limit on {name} says nothing; leave one out"
                )
    if len(objectives) == 1 and not limits:
        raise InputError(
            f"--minimize {objectives[0].name}: nothing holds it back; give a limit such as --budget nll_drift=1%, or a "
            "second --minimize"
        )
    return Goal(tuple(objectives), limits)


def objective(name: str) -> Objective:
    """The objective of a name.

    Raises:
        InputError: no quantity has it, or it is better the higher it is.
    """
    known = {key.limit.key: key for key in keys()}
    if name == LATENCY:
        return Objective(name, known["latency_ms"])
    lower = [LATENCY, *(each for each, key in known.items() if key.quantity.better == "lower")]
    if name not in known:
        raise InputError(f"--minimize: no quantity is called {shown(name)}; {nearest(name, lower)}")
    if name not in lower:
        raise InputError(f"--minimize {name}: is better the higher it is; give it a limit with --budget {name}=...")
    return Objective(LATENCY if name == "latency_ms" else name, known[name])


def limit_of(name: str, text: str, reference_bytes: float) -> Any:
    """The limit that a text says, as a gate's mapping holds it; bytes of a size are a share of the reference's.

    Raises:
        InputError: bytes are a limit of the size alone.
    """
    if (written := BYTES.fullmatch(text)) is not None:
        if name != SIZE:
            raise InputError(f"--budget {name}={text}: only {SIZE} is limited in bytes")
        return float(written[1]) * UNITS[written[2]] / reference_bytes
    if text.endswith("%") or name == SIZE and text.endswith(tuple(UNITS)):
        return text
    try:
        return float(text)
    except ValueError:
        return text  # which the gate refuses, in its own words


def excess(key: Key, value: float, limit: float) -> float:
    """By which share of a limit a value is beyond it; 0 where the limit is kept."""
    beyond = limit - value if key.quantity.better == "higher" else value - limit
    return max(beyond, 0.0) / abs(limit) if limit else max(beyond, 0.0)


def judged_value(key: Key, finding: Finding, gate: Gate) -> float:
    """What a gate judges of a finding."""
    return unfavourable(key, finding) if gate.decide == "interval" else finding.value
