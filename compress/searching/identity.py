"""Which study a search goes on with: the hash of everything that outcomes depend on."""

from __future__ import annotations

from typing import Any

from compress.core.settings import digest, plain
from compress.core.sources import source_hash
from compress.measure.speed.environment import environment
from compress.searching import trial
from compress.searching.goal import Goal
from compress.searching.space import Choice, Space
from compress.searching.workshop import Workshop


def identity(space: Space, goal: Goal, shop: Workshop) -> str:
    """The hash of everything that outcomes depend on: the same command goes on with the same study."""
    return digest(
        "search",
        described({**space.value, "gate": None}),
        [(each.name, each.kind, each.values) for each in space.choices],
        [each.name for each in goal.objectives],
        goal.limits,
        shop.identity,
        plain(environment()),
        source_hash(trial.__name__),
    )


def described(value: Any) -> Any:
    """A space's content with the names of its choices in their places."""
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    if isinstance(value, list):
        return [described(each) for each in value]
    return f"choice {value.name}" if isinstance(value, Choice) else value
