"""What a search is asked for, checked as far as that goes before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.settings import InputError, shown
from compress.searching import limits, quantities
from compress.searching.space import Space, load
from compress.searching.study import require

if TYPE_CHECKING:
    from compress.searching.goal import Goal


@dataclass(frozen=True)
class Asked:
    """A space, limits by their quantity, the names of what is made small, and the space's own gate."""

    space: Space
    budgets: Mapping[str, str]
    names: tuple[str, ...]
    gate: Mapping[str, Any]

    def goal(self) -> Goal:
        """The goal; measures are imported for that.

        Raises:
            InputError: a quantity is unknown, or a limit is out of range.
        """
        from compress.searching.goal import goal_of

        return goal_of(self.budgets, self.names, self.gate)


def asked(space: Path, budgets: Mapping[str, str], minimise: Sequence[str]) -> Asked:
    """What is asked for.

    Raises:
        InputError: the space, a limit or a name is wrong, they contradict each other, or Optuna is not installed.
    """
    read = load(space)
    gate = read.value.get("gate") or {}
    if not isinstance(gate, dict):
        raise InputError(f"{space}: gate: {shown(gate)} is not a mapping of limits")
    names = limits.objectives(minimise)
    limits.check(budgets, names, gate)
    quantities.check(*limits.limits_of(budgets, gate), names)
    require()
    return Asked(read, budgets, names, gate)
