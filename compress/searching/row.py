"""What is known of a trial so far, and how it may end before it has an outcome of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compress.core.settings import InputError
from compress.core.store import StoreError, is_full
from compress.measure import EngineMeasurement
from compress.measure.quantity import Finding
from compress.searching.outcome import REFUSED_EXCESS, Number, Outcome


class Stopped(Exception):  # noqa: N818 - an outcome, not a failure
    """A trial goes no further."""


class NotHereError(InputError):
    """This machine cannot measure what the goal asks for, whatever the combination."""


@dataclass
class Row:
    """What is known of a trial so far."""

    picked: dict[str, Any]
    engine: EngineMeasurement | None = None
    lacks: list[str] = field(default_factory=list)
    excess: float = 0.0
    found: dict[str, Number] = field(default_factory=dict)
    judged: list[str] = field(default_factory=list)
    breached: list[str] = field(default_factory=list)
    start: float | None = None
    training: str = ""

    def outcome(self, state: Any, reason: str, values: tuple[float, ...] = ()) -> Outcome:
        """The outcome that this is."""
        timed = self.engine.speed if self.engine else ()
        return Outcome(
            picked=self.picked,
            state=state,
            reason=reason,
            lacks=tuple(self.lacks),
            excess=REFUSED_EXCESS if state == "refused" else self.excess,
            found=dict(self.found),
            values=values,
            size_bytes=self.engine.size_bytes if self.engine else None,
            artifact=self.engine.artifact if self.engine else "",
            ms_per_token=min(timed, key=lambda each: each.batch).ms_per_token if timed else None,
            judged=tuple(self.judged),
            breached=tuple(self.breached),
            start=self.start,
            training=self.training,
        )

    def note(self, name: str, finding: Finding) -> None:
        """Keep a number."""
        self.found[name] = Number(finding.value, finding.interval)


def of_the_machine(error: BaseException) -> bool:
    """Whether an error is of the disk, of files or of memory, and says nothing of a combination."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, (OSError, MemoryError, NotHereError, StoreError)) or is_full(each):
            return True
        each = each.__cause__
    return False
