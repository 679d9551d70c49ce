"""Drive a study: trials until the time is over, then the best ones beside each other; best recipe and page always."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from compress.core.lease import working
from compress.core.listener import Listener
from compress.core.store import Store, prepare_output
from compress.searching.comparison import compare
from compress.searching.found import Found, found_in
from compress.searching.goal import Goal
from compress.searching.identity import identity
from compress.searching.outcome import Outcome
from compress.searching.recipes import check
from compress.searching.side_by_side import side_by_side
from compress.searching.space import Space, label
from compress.searching.study import Study
from compress.searching.trial import evaluate
from compress.searching.warm import warm_start
from compress.searching.workshop import Workshop
from compress.workers.place import Place
from export.runtime.counted import counted

STUDIES = "studies"  # the folder in a store
ALL_TRIED = "every combination was tried"
Write = Callable[[Found, Workshop, Path], None]


def search(
    space: Space,
    goal: Goal,
    store: Store,
    output: Path,
    listener: Listener,
    *,
    seconds: float,
    most_trials: int | None = None,
    write: Write,
    place: Place | None = None,
) -> Found:
    """Try combinations until trials worked so many seconds in all, or there are so many, or all were tried.

    Trials of earlier calls count, so the same call again goes on or has nothing to do, and a larger budget extends it.
    A trial that began in time is finished. The workers of a `place` try side by side. At the end the trials that could
    be best are timed beside each other. `write` is called with what was found after every trial, and first of all.

    Raises:
        InputError: an input is wrong, another process works at the study, the disk is full, no worker can work, or the
            first combinations all failed.
    """
    base = check(space)
    store.prepare()
    prepare_output(output)
    try:
        with working():
            shop = Workshop(space, base, goal, store, output, listener)
            path = store.root / STUDIES / f"{space.path.stem}-{identity(space, shop.goal, shop)[:16]}.sqlite3"
            warm = partial(warm_start, space, base, store, *shop.identity, goal.objectives[0].name)
            study = Study(path, space, len(goal.objectives), base.seed, warm)
        if store.is_elsewhere:
            listener.say(
                f"study: {path}, on this machine alone; trials' artifacts and measurements are in {store.place}"
            )
        try:
            return Search(shop, study, write, seconds, most_trials).run(place)
        finally:
            study.close()
    finally:
        store.release()


class Search:
    """A study at work: it says what is tried next, and keeps what came of it."""

    def __init__(self, shop: Workshop, study: Study, write: Write, seconds: float, most_trials: int | None) -> None:
        self.shop, self.study, self.write, self.say = shop, study, write, shop.listener.say
        self.seconds, self.most_trials = seconds, most_trials
        self.ended = ""
        self.before, self.began = study.seconds, 0.0  # seconds until a trial began while none was in work, and when

    def run(self, place: Place | None) -> Found:
        """Try until the end, compare the best ones, and write what was found."""
        study, store = self.study, self.shop.store
        if study.warm:
            self.say(study.warm)
        if study.outcomes():
            self.publish()
        if place is None:
            self.one_by_one()
        elif self.trials_left() > 0 and not self.reason_to_end():
            side_by_side(self, place)
        self.ended = self.ended or self.reason_to_end() or ALL_TRIED
        if (compared := compare(self.shop, study)) is not None:
            self.say(compared.lines()[0])
        found = self.publish()
        store.note_user(self.shop.space.path, [])
        return found

    def one_by_one(self) -> None:
        """Try in this process."""
        while (asked := self.ask()) is not None:
            number, picked = asked
            self.tell(number, evaluate(self.shop, picked, self.study.outcomes()))

    @property
    def spent(self) -> float:
        """Seconds in which trials worked, by the clock: where several worked at once, they count once."""
        return self.before + (time.monotonic() - self.began if self.study.in_work else 0.0)

    def reason_to_end(self) -> str:
        """Why no further trial begins; empty if one does."""
        begun = len(self.study.outcomes()) + len(self.study.in_work)
        if self.most_trials is not None and begun >= self.most_trials:
            return counted(begun, "trial")
        return f"{self.spent:.0f} s of trials" if self.spent >= self.seconds else ""

    def trials_left(self) -> int:
        """How many trials may still begin."""
        begun = len(self.study.outcomes()) + len(self.study.in_work)
        most = self.shop.space.size if self.most_trials is None else min(self.shop.space.size, self.most_trials)
        return most - begun

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """What is tried next, and the trial's number; None where nothing is."""
        self.ended = self.reason_to_end()
        if self.ended:
            return None
        with working():
            idle = not self.study.in_work
            asked = self.study.ask()
            if asked is None:
                self.ended = ALL_TRIED
                return None
            if idle:
                self.began = time.monotonic()
            self.shop.claim(asked[1])
        self.say(f"trial {asked[0]}: {words(asked[1])}")
        return asked

    def tell(self, number: int, outcome: Outcome) -> None:
        """Keep what came of a trial, and write what was found by now."""
        outcome = replace(outcome, number=number)
        spent = self.spent
        with working():
            self.study.tell(number, outcome)
            self.study.spent(spent)
        if not self.study.in_work:
            self.before = spent
        self.say(f"trial {number}: {said(outcome, self.shop.goal)}, {outcome.seconds:.0f} s")
        self.publish()

    def publish(self) -> Found:
        """Write what was found by now."""
        with working():
            found = found_in(self.study, self.shop, self.ended)
            self.write(found, self.shop, self.shop.output)
        return found


def words(picked: dict[str, Any]) -> str:
    """A combination in a line."""
    return ", ".join(f"{name} {label(value)}" for name, value in picked.items())


def said(outcome: Outcome, goal: Goal) -> str:
    """What came of a trial, in a line."""
    if outcome.state != "measured":
        return f"{outcome.state}: {outcome.reason}"
    return ", ".join(each.words(value) for each, value in zip(goal.objectives, outcome.values, strict=True))
