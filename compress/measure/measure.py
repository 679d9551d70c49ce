"""One measure: a dataclass whose fields are what it finds, and how it is found."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from compress.core.settings import digest, parse, plain
from compress.measure.quantity import Finding, interval_of

if TYPE_CHECKING:
    from compress.measure.measurement import Measurement
    from compress.measure.promise import Broken
    from compress.measure.subject import Subject

Stage = Literal["steps", "graphs", "engines"]


class Measure(ABC):
    """What is measured of a candidate beside its reference. A subclass is a frozen dataclass; `run` makes one.

    `name` is its key in reports. `version` goes up whenever the same models give another result, so that the store
    does not serve the old one. `stage` says what is measured: every step against the reference, every model behind
    the export, or every finished engine; `verified` whether `compress verify` measures it too: always, where a gate
    limits it (``asked``: it takes long), or never. `gated` is false where the gates of its quantities belong to
    another measure. `deployed` says that it is about the runtime that an engine is for: where that is not on this
    machine it is not measured, and its gates wait. `timed` says that it takes times, so that nothing else may work
    beside it. `label` names it in messages and tables (the name in words if it
    has none), `title` and `caption` are those of its table in reports. `promises` names what `broken` looks at.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    stage: ClassVar[Stage] = "steps"
    verified: ClassVar[Literal["always", "asked", "never"]] = "always"
    gated: ClassVar[bool] = True
    deployed: ClassVar[bool] = False
    timed: ClassVar[bool] = False
    label: ClassVar[str | None] = None
    title: ClassVar[str] = ""
    caption: ClassVar[str] = ""
    promises: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def run(cls, subject: Subject) -> Self:
        """Measure now; only where it applies."""

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Whether there is something to measure; where there is not, reports say null."""
        return True

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """What the result depends on besides the version; part of its key in the store. By default everything."""
        return *subject.keys, *subject.given.everything

    @classmethod
    def measured(cls, subject: Subject) -> Self | None:
        """The result, from the store or found now; None where it does not apply."""
        if not cls.applies(subject):
            return None
        store, say = subject.given.store, subject.given.listener.say
        if store is None:
            return cls.run(subject)
        key = digest(cls.name.replace("_", " "), cls.version, *cls.depends(subject))
        return parse(cls, store.measurement(key, lambda: plain(cls.run(subject)), say), f"stored {cls.name}")

    def broken(self) -> Iterator[Broken]:
        """Promises that this result does not keep, whatever the gates say."""
        yield from ()

    def in_row(self) -> Any:
        """What a row of a report holds of it."""
        return self

    @classmethod
    def findings(cls, row: Measurement, field: str) -> Iterator[Finding]:
        """What a row of a report has to say of one of its quantities; nothing where it was not measured."""
        if (found := row.result(cls.name)) is not None and (value := getattr(found, field)) is not None:
            yield Finding(value, interval_of(found, field))

    @classmethod
    def words(cls) -> str:
        """What messages and tables call it."""
        return cls.name.replace("_", " ") if cls.label is None else cls.label


def is_measure(value: object) -> bool:
    """Whether it is a class that can be measured."""
    return (
        isinstance(value, type)
        and issubclass(value, Measure)
        and dataclasses.is_dataclass(value)
        and isinstance(getattr(value, "name", None), str)
    )
