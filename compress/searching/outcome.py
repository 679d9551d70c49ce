"""What a trial came to, as a study keeps it; and what follows from the outcomes of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from compress.core.settings import setting

REFUSED_EXCESS = 100.0  # of what is no model at all: further from every budget than any model


@dataclass(frozen=True)
class Number:
    """One number that was measured, and its 95 % interval where it has one."""

    value: float = setting(doc="the estimate")
    ci95: tuple[float, float] | None = setting(None, doc="its interval")


@dataclass(frozen=True)
class Outcome:
    """One trial. `state` is measured (all that the goal asks for), stopped (a budget or a promise is broken, or cannot
    be kept any more), or refused (the combination makes no engine)."""

    picked: dict[str, Any] = field(metadata={"doc": "the settings that were searched for, by their names"})
    state: Literal["measured", "stopped", "refused"] = setting(doc="how far it came")
    number: int = setting(0, doc="the trial's number in its study", low=0)
    reason: str = setting("", doc="why it was stopped or refused; empty if it was measured")
    lacks: tuple[str, ...] = setting((), doc="every limit that it does not keep, each in one sentence")
    excess: float = setting(0.0, doc="largest share of a limit by which it is beyond it; 0 where all are kept", low=0)
    found: dict[str, Number] = field(
        default_factory=dict, metadata={"doc": "quantities of the goal that were measured"}
    )
    values: tuple[float, ...] = setting((), doc="the objectives, in order; empty unless it was measured")
    size_bytes: int | None = setting(None, doc="bytes on disk of its engine")
    artifact: str = setting("", doc="the engine's key in the store")
    ms_per_token: float | None = setting(None, doc="time of a step at the smallest batch, milliseconds")
    judged: tuple[str, ...] = setting((), doc="limits that were judged by everything that the recipe measures")
    breached: tuple[str, ...] = setting((), doc="those of them that were not kept")
    start: float | None = setting(None, doc="drift of a few pictures in front of its training")
    training: str = setting("", doc="hash of its steps from the training on")
    seconds: float = setting(0.0, doc="time that it took", low=0)

    @property
    def kept(self) -> bool:
        """Whether it was measured and keeps every budget."""
        return self.state == "measured" and not self.lacks


def best(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The one with the lowest first objective among those that keep every budget; the earlier one of equals."""
    return min((each for each in outcomes if each.kept), key=lambda each: (*each.values, each.number), default=None)


def nearest(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The one that lacks least to keep every budget."""
    return min(outcomes, key=lambda each: (each.excess, each.number), default=None)


def front(outcomes: Sequence[Outcome], axes: Sequence[str]) -> list[Outcome]:
    """The measured ones that no other one beats in these quantities, all better the lower; by the first of them."""
    points = {
        each.number: tuple(each.found[axis].value for axis in axes)
        for each in outcomes
        if each.state == "measured" and all(axis in each.found for axis in axes)
    }

    def beaten(own: tuple[float, ...]) -> bool:
        return any(
            other != own and all(theirs <= mine for theirs, mine in zip(other, own, strict=True))
            for other in points.values()
        )

    left = [each for each in outcomes if each.number in points and not beaten(points[each.number])]
    return sorted(left, key=lambda each: points[each.number])


def hopeless(start: float, training: str, key: str, outcomes: Sequence[Outcome]) -> Outcome | None:
    """The finished trial that says that this one need not be trained; None if there is no such one.

    It is trained in the same way (`training`), began with no more drift, and ended beyond the limit `key`; while none
    that began with as much drift or more kept it.
    """
    alike = [each for each in outcomes if each.training == training and each.start is not None and key in each.judged]
    if any(each.start >= start and key not in each.breached for each in alike):  # type: ignore[operator]
        return None
    return next((each for each in alike if each.start <= start and key in each.breached), None)  # type: ignore[operator]
