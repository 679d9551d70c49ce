"""What a study found so far: the best trial, the front, what decides it, and every trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compress.core.settings import setting
from compress.searching.comparison import Comparison, applied, deciding, fastest, kept_comparison
from compress.searching.goal import Goal
from compress.searching.outcome import Outcome, front, nearest
from compress.searching.study import Study
from compress.searching.workshop import Workshop


@dataclass(frozen=True)
class Found:
    """What a study found so far; the keys of `--json`."""

    space: str = setting(doc="the space's file")
    study: str = setting(doc="the file of Optuna's study, called 'search' in it")
    objectives: tuple[str, ...] = setting(doc="what is made small; the first decides what is best")
    budgets: dict[str, Any] = setting(doc="limits, as a recipe's gate has them")
    combinations: int = setting(doc="how many the space has")
    seconds: float = setting(doc="time in which trials worked, by the clock")
    best: Outcome | None = setting(doc="the best trial that keeps every budget; null if none does")
    nearest: Outcome | None = setting(doc="where none does: the trial that lacks least")
    axes: tuple[str, ...] = setting(doc="the quantities that the front is of")
    front: tuple[Outcome, ...] = setting(doc="measured trials that no other one beats in these, by the first of them")
    importance: dict[str, dict[str, float]] = setting(doc="of each objective: the share that each choice decides")
    trials: tuple[Outcome, ...] = setting(doc="every trial that ended")
    recipe: str = setting("", doc="the best trial's recipe, a file for `run`; empty if there is none")
    engine: str = setting("", doc="the best trial's engine, a folder; empty if there is none")
    page: str = setting("", doc="the page that shows all this")
    warm: str = setting("", doc="what it began with, where `compress sensitivity` was run for the model before")
    compared: Comparison | None = setting(
        None,
        doc="the best trials timed beside each other, whose numbers replace those of their trials; null if a later "
        "trial is faster than all of them by far",
    )
    ended: str = setting("", doc="why no further trial was begun; empty while the search goes on")


def axes_of(goal: Goal, outcomes: list[Outcome]) -> tuple[str, ...]:
    """What a front is of: the objectives, and of one alone also the first budget that is better the lower it is."""
    names = tuple(each.name for each in goal.objectives)
    if len(names) > 1:
        return names
    lower = [key.limit.key for key, _ in goal.judged() if key.quantity.better == "lower"]
    return *names, *(key for key in lower[:1] if any(key in each.found for each in outcomes))


def found_in(study: Study, shop: Workshop, ended: str = "") -> Found:
    """What a study found so far; trials that were compared have the numbers of that."""
    goal, compared = shop.goal, kept_comparison(study)
    outcomes = applied(study.outcomes(), compared)
    axes, winner = axes_of(goal, outcomes), fastest(outcomes, compared)
    return Found(
        space=str(shop.space.path),
        study=str(study.path),
        objectives=tuple(each.name for each in goal.objectives),
        budgets=dict(goal.limits),
        combinations=shop.space.size,
        seconds=study.seconds,
        best=winner,
        nearest=None if winner else nearest(outcomes),
        axes=axes,
        front=tuple(front(outcomes, axes)),
        importance={each.name: study.importances(index) for index, each in enumerate(goal.objectives)},
        trials=tuple(outcomes),
        warm=study.warm,
        compared=deciding(compared, winner),
        ended=ended,
    )
