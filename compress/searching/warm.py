"""Where `compress sensitivity` was run for the model: which combinations lose least for what they save, tried first.

What a change of all layers adds to the KL, and what it saves, is the sum over the layers changed one by one; of heads
and units it is in proportion to the share that goes. A repair or a training behind it is not foreseen, so this is an
order of trials and nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compress.core.settings import ContradictionError, InputError, digest
from compress.core.store import Store
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_heads import PruneHeads
from compress.passes.quantize import Quantize
from compress.passes.shared.format_names import name_of
from compress.passes.shared.pruning import HEADS, UNITS
from compress.recipe.recipe import Recipe
from compress.report.data.sensitivity import LayerRow
from compress.running.sensitivity import kept_rows
from compress.searching.limits import SIZE
from compress.searching.recipes import recipe_of
from compress.searching.space import Choice, Space
from compress.searching.study import Warm
from export.runtime.counted import counted

MOST = 5  # combinations that come first, so that the sampler's own follow soon
MOST_LOOKED_AT = 500
STEPS = ("prune-heads", "prune-ffn", "quantize")
PRUNED = {PruneHeads: HEADS.noun, PruneFfn: UNITS.noun}


@dataclass(frozen=True)
class Cost:
    """What changes add to the KL, nats per token, and what they save: bytes, or milliseconds of a step's products."""

    kl: float = 0.0
    saved: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.kl + other.kl, self.saved + other.saved)


def warm_start(space: Space, base: Recipe, store: Store, reference: str, tokens: str, objective: str) -> Warm:
    """Combinations in the order of their predicted KL for each byte (`objective` size) or millisecond saved.

    `reference` is the model's key in the store, `tokens` the fingerprint of its pictures.
    """
    rows = kept_rows(store, reference, tokens, base.bench.threads)
    if not rows:
        return Warm()
    unit = "byte" if objective == SIZE else "millisecond"
    found = {}
    for picked in combinations(space):
        try:
            cost = predicted(recipe_of(space, picked), rows, objective)
        except (ContradictionError, InputError):
            continue
        if cost is not None and cost.saved > 0:
            found[digest(picked)] = (cost.kl / cost.saved, -cost.saved, picked)
    first = digest(space.first())
    ordered = sorted((each for key, each in found.items() if key != first), key=lambda each: each[:2])[:MOST]
    if not ordered:
        return Warm(said="warm start: compress sensitivity was run, but says nothing of what this space chooses")
    return Warm(
        tuple(picked for _, _, picked in ordered),
        f"warm start: {counted(len(ordered), 'combination')} behind the first, in the order of the KL that compress "
        f"sensitivity predicts for each {unit} saved",
    )


def combinations(space: Space) -> Iterator[dict[str, Any]]:
    """The combinations of all choices that sensitivity may know of; every other choice has its first value."""
    known = [each for each in space.choices if is_known(each)]
    if not known:
        return
    for values in itertools.islice(itertools.product(*(each.values for each in known)), MOST_LOOKED_AT):
        asked = {**space.first(), **dict(zip((each.name for each in known), values, strict=True))}
        yield {each.name: asked[each.name] for each in space.asked(asked)}


def is_known(choice: Choice) -> bool:
    """Whether a choice is of a step that sensitivity measures."""
    return any(part.startswith(STEPS) for part in choice.name.split("."))


def predicted(recipe: Recipe, rows: Mapping[str, list[LayerRow]], objective: str) -> Cost | None:
    """What a recipe's steps add and save; None where one of them was not measured."""
    total = Cost()
    for step in [*recipe.steps, *(step for engine in recipe.engines for step in engine.steps)]:
        setting = step.setting
        if isinstance(setting, Quantize):
            if setting.assign != "none" or (cost := cost_of(rows, name_of(setting.spec()), objective)) is None:
                return None
            total += cost
        elif isinstance(setting, tuple(PRUNED)):
            cost = cost_of_pruning(rows, PRUNED[type(setting)], setting.ratio, objective)  # type: ignore[attr-defined]
            if cost is None:
                return None
            total += cost
    return total


def cost_of(rows: Mapping[str, list[LayerRow]], change: str, objective: str) -> Cost | None:
    """What one change of all layers comes to; None where it was not measured."""
    if change not in rows:
        return None
    return Cost(
        sum(max(row.kl, 0.0) for row in rows[change]),
        sum(row.saved_bytes if objective == SIZE else row.saved_ms for row in rows[change]),
    )


def cost_of_pruning(rows: Mapping[str, list[LayerRow]], noun: str, ratio: float, objective: str) -> Cost | None:
    """The same of a share of heads or units, from the share that is nearest to it among those measured."""
    measured = {float(change.partition("%")[0]) / 100: change for change in rows if change.endswith(f"% of {noun}")}
    if not measured:
        return None
    nearest = min(measured, key=lambda share: abs(share - ratio))
    cost = cost_of(rows, measured[nearest], objective)
    assert cost is not None
    return Cost(cost.kl * ratio / nearest, cost.saved * ratio / nearest)
