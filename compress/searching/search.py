"""Drive a study: trials one after another until the time is over, with the best recipe and the page always written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compress.core.listener import Listener
from compress.core.settings import digest, plain, setting
from compress.core.sources import source_hash
from compress.core.store import Store, prepare_output
from compress.measure.speed.environment import environment
from compress.searching import trial as trials
from compress.searching.goal import Goal
from compress.searching.outcome import Outcome, best, front, nearest
from compress.searching.recipes import check
from compress.searching.space import Choice, Space, label
from compress.searching.study import Study
from compress.searching.trial import Workshop
from compress.searching.warm import warm_start
from export.runtime.counted import counted

STUDIES = "studies"  # the folder in a store


@dataclass(frozen=True)
class Found:
    """What a study found so far; the keys of `--json`."""

    space: str = setting(doc="the space's file")
    study: str = setting(doc="the file of Optuna's study, called 'search' in it")
    objectives: tuple[str, ...] = setting(doc="what is made small; the first decides what is best")
    budgets: dict[str, Any] = setting(doc="limits, as a recipe's gate has them")
    combinations: int = setting(doc="how many the space has")
    seconds: float = setting(doc="time that all trials took")
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
    ended: str = setting("", doc="why no further trial was begun; empty while the search goes on")


def axes_of(goal: Goal, outcomes: list[Outcome]) -> tuple[str, ...]:
    """What a front is of: the objectives, and of one alone also the first budget that is better the lower it is."""
    names = tuple(each.name for each in goal.objectives)
    if len(names) > 1:
        return names
    lower = [key.limit.key for key, _ in goal.judged() if key.quantity.better == "lower"]
    return *names, *(key for key in lower[:1] if any(key in each.found for each in outcomes))


def found_in(study: Study, shop: Workshop, ended: str = "") -> Found:
    """What a study found so far."""
    outcomes, goal = study.outcomes(), shop.goal
    axes, winner = axes_of(goal, outcomes), best(outcomes)
    return Found(
        space=str(shop.space.path),
        study=str(study.path),
        objectives=tuple(each.name for each in goal.objectives),
        budgets=dict(goal.limits),
        combinations=shop.space.size,
        seconds=round(sum(each.seconds for each in outcomes), 3),
        best=winner,
        nearest=None if winner else nearest(outcomes),
        axes=axes,
        front=tuple(front(outcomes, axes)),
        importance={each.name: study.importances(index) for index, each in enumerate(goal.objectives)},
        trials=tuple(outcomes),
        warm=study.warm,
        ended=ended,
    )


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
        source_hash(trials.__name__),
    )


def described(value: Any) -> Any:
    """A space's content with the names of its choices in their places."""
    if isinstance(value, dict):
        return {key: described(each) for key, each in value.items()}
    if isinstance(value, list):
        return [described(each) for each in value]
    return f"choice {value.name}" if isinstance(value, Choice) else value


def search(
    space: Space,
    goal: Goal,
    store: Store,
    output: Path,
    listener: Listener,
    *,
    seconds: float,
    most_trials: int | None = None,
    write: Callable[[Found, Workshop, Path], None],
) -> Found:
    """Try combinations until the study took so many seconds in all, or has so many trials, or all were tried.

    Trials of earlier calls count, so the same call again goes on or has nothing to do, and a larger budget extends it.
    A trial that began in time is finished. `write` is called with what was found after every trial, and first of all.

    Raises:
        InputError: an input is wrong, another process works at the study, or the disk is full.
    """
    base = check(space)
    store.prepare()
    prepare_output(output)
    shop = Workshop(space, base, goal, store, output, listener)
    path = store.root / STUDIES / f"{space.path.stem}-{identity(space, shop.goal, shop)[:16]}.sqlite3"
    if store.is_elsewhere:
        listener.say(f"study: {path}, on this machine alone; trials' artifacts and measurements are in {store.place}")
    warm = partial(warm_start, space, base, store, *shop.identity, goal.objectives[0].name)
    study = Study(path, space, len(goal.objectives), base.seed, warm)
    try:
        if study.warm:
            listener.say(study.warm)
        if study.outcomes():
            write(found_in(study, shop), shop, output)
        while not (ended := reason_to_end(study, seconds, most_trials)):
            asked = study.ask()
            if asked is None:
                ended = "every combination was tried"
                break
            handle, picked = asked
            listener.say(f"trial {handle.number}: {words(picked)}")
            outcome = replace(shop.evaluate(picked, study.outcomes()), number=handle.number)
            study.tell(handle, outcome)
            listener.say(f"trial {handle.number}: {said(outcome, goal)}, {outcome.seconds:.0f} s")
            write(found_in(study, shop), shop, output)
        found = found_in(study, shop, ended)
        write(found, shop, output)
        store.note_user(space.path, [])
        return found
    finally:
        study.close()
        store.release()


def reason_to_end(study: Study, seconds: float, most_trials: int | None) -> str:
    """Why no further trial begins; empty if one does."""
    outcomes = study.outcomes()
    if most_trials is not None and len(outcomes) >= most_trials:
        return counted(len(outcomes), "trial")
    spent = sum(each.seconds for each in outcomes)
    return f"{spent:.0f} s of trials" if spent >= seconds else ""


def words(picked: dict[str, Any]) -> str:
    """A combination in a line."""
    return ", ".join(f"{name} {label(value)}" for name, value in picked.items())


def said(outcome: Outcome, goal: Goal) -> str:
    """What came of a trial, in a line."""
    if outcome.state != "measured":
        return f"{outcome.state}: {outcome.reason}"
    return ", ".join(each.words(value) for each, value in zip(goal.objectives, outcome.values, strict=True))
