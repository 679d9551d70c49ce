"""The assignment of formats to layers that keeps a budget: solved by the sum, then tried together.

What layers add to the KL alone does not sum to what they add together, exactly. So the format that is chosen for each
by their sum (`assignment.chosen`) is really given to them, and what they add together is measured; the budget of the
sum is moved until that is just within the budget that was asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from compress.core.settings import setting
from compress.models.transformer.quantized import LinearQuantization
from compress.passes.shared.assignment import chosen
from compress.passes.shared.format_names import name_of

TRIES = 8  # assignments that are really made, at most
ROUNDS = 24  # of solving; several may end in one assignment
CLOSE = 1.02  # limits of the sum that are so near to each other give no other assignment worth trying
AIM = 0.98  # of the budget, so that the next try keeps it

Assignment = dict[str, LinearQuantization | None]


@dataclass(frozen=True, kw_only=True)
class AssignedNotes:
    """Which formats were chosen, and whether what they add together is what was expected."""

    formats: dict[str, str] = setting(doc="the format of each layer")
    predicted_kl: float = setting(
        doc="sum of the KL that each layer adds alone (of products that are one in engines: together), nats per token"
    )
    measured_kl: float = setting(doc="KL that all add together")
    pictures: int = setting(doc="pictures that both were measured on, of the validation part where there is one")
    layer_bytes: int = setting(doc="bytes of the layers' weights, as engines for ONNX Runtime hold them")
    float_bytes: int = setting(doc="and in float32")
    tried: int = setting(doc="assignments that were made and measured")


class UnreachableError(ValueError):
    """No assignment keeps the budget; the message shows the nearest."""


@dataclass(frozen=True)
class Group:
    """Layers that get one format: the bytes that they take in each, and the KL that they add, nats per token."""

    layers: tuple[str, ...]
    formats: tuple[LinearQuantization | None, ...]
    sizes: tuple[int, ...]
    kl: tuple[float, ...]


@dataclass
class Assigner:
    """Looks for the assignment of formats to groups of layers that keeps a budget.

    `measure` makes an assignment and says the KL that it adds; what it made is the second of the pair.
    """

    groups: Sequence[Group]
    measure: Callable[[Assignment], tuple[float, Any]]
    tried: dict[tuple[int, ...], float] = field(default_factory=dict)
    latest: tuple[tuple[int, ...], Any] | None = None  # the choice that was made last, and what it made
    held: tuple[tuple[int, ...], Any] | None = None  # the same of the best one

    def within_kl(self, limit: float) -> tuple[int, ...]:
        """The choice with the fewest bytes whose layers add at most so much together, measured.

        Raises:
            UnreachableError: none was found.
        """
        kl, sizes = [group.kl for group in self.groups], [group.sizes for group in self.groups]
        least, smallest = (tuple(int(np.argmin(each)) for each in part) for part in (kl, sizes))
        kept: tuple[int, ...] | None = None
        inside, outside, asked = 0.0, math.inf, limit
        for _ in range(ROUNDS):
            found = chosen(sizes, kl, asked)
            choice = least if found is None else tuple(found)
            measured = self.measured(choice)
            if measured <= limit:
                inside = asked
                if kept is None or self.bytes_of(choice) < self.bytes_of(kept):
                    kept, self.held = choice, self.latest
                if measured >= AIM * limit or choice == smallest:
                    break
            else:
                outside = asked
                if choice == least:
                    break
            if len(self.tried) == TRIES or outside < CLOSE * inside:
                break
            if inside > 0 and outside < math.inf:
                asked = math.sqrt(inside * outside)
            else:
                asked *= min(max(AIM * limit / measured, 0.1), 4.0) if measured > 0 else 4.0
        if kept is None and self.measured(least) <= limit:
            kept = least
        if kept is None:
            raise UnreachableError(
                f"budget.kl {limit:g} cannot be kept: the nearest assignment ({self.words(least)}) adds "
                f"{self.measured(least):.3g} nats; raise it, or let more layers stay in float"
            )
        if all(spec is None for spec in self.assignment(kept).values()):
            self.refuse_float(limit)
        return kept

    def refuse_float(self, limit: float) -> NoReturn:
        """Say that a budget leaves nothing to quantize, and what is nearest to it.

        Raises:
            UnreachableError: always.
        """
        added, name, format_name = min(
            (kl, group.layers[0], name_of(spec))
            for group in self.groups
            for spec, kl in zip(group.formats, group.kl, strict=True)
            if spec is not None
        )
        raise UnreachableError(
            f"budget.kl {limit:g} leaves every layer in float: the nearest assignment, {name} alone in {format_name}, "
            f"adds {added:.3g} nats; raise it"
        )

    def within_bytes(self, limit: int) -> tuple[int, ...]:
        """The choice whose layers add least, by their sum, in at most so many bytes.

        Raises:
            UnreachableError: there is none.
        """
        sizes = [group.sizes for group in self.groups]
        found = chosen([group.kl for group in self.groups], sizes, limit)
        if found is None:
            least = tuple(int(np.argmin(each)) for each in sizes)
            raise UnreachableError(
                f"budget: {limit} bytes cannot be kept: the smallest assignment ({self.words(least)}) takes "
                f"{self.bytes_of(least)}; raise it, or allow formats of fewer bits"
            )
        return tuple(found)

    def measured(self, choice: tuple[int, ...]) -> float:
        """The KL that a choice really adds."""
        if choice not in self.tried:
            self.tried[choice], made = self.measure(self.assignment(choice))
            self.latest = choice, made
        return self.tried[choice]

    def made(self, choice: tuple[int, ...]) -> Any:
        """What was made of a choice; only of one of them that is kept in memory."""
        for each in (self.held, self.latest):
            if each is not None and each[0] == choice:
                return each[1]
        self.tried.pop(choice, None)
        self.measured(choice)
        assert self.latest is not None
        return self.latest[1]

    def assignment(self, choice: Sequence[int]) -> Assignment:
        """The format of each layer."""
        pairs = zip(self.groups, choice, strict=True)
        return {name: group.formats[index] for group, index in pairs for name in group.layers}

    def bytes_of(self, choice: Sequence[int]) -> int:
        """Bytes of the layers' weights."""
        return sum(group.sizes[index] for group, index in zip(self.groups, choice, strict=True))

    def predicted(self, choice: Sequence[int]) -> float:
        """Sum of what each adds alone."""
        return sum(group.kl[index] for group, index in zip(self.groups, choice, strict=True))

    def words(self, choice: Sequence[int]) -> str:
        """How many layers have which format."""
        counts = Counter(name_of(spec) for spec in self.assignment(choice).values())
        return ", ".join(f"{count} in {name}" for name, count in counts.most_common())

    def notes(self, choice: tuple[int, ...], pictures: int, float_bytes: int) -> AssignedNotes:
        """What there is to say of a choice."""
        return AssignedNotes(
            formats={name: name_of(spec) for name, spec in self.assignment(choice).items()},
            predicted_kl=self.predicted(choice),
            measured_kl=self.measured(choice),
            pictures=pictures,
            layer_bytes=self.bytes_of(choice),
            float_bytes=float_bytes,
            tried=len(self.tried),
        )
