"""Trials side by side: workers make, measure and judge combinations, the command asks the study and tells it.

Workers and command share artifacts and measurements through the store, where what several trials need is made once. A
worker times its trial while nothing else of the search works on its machine. Nothing heavy is imported before a worker
has the lease for work, so that one that is replaced disturbs nobody who times.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.lease import working
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.running.meeting import Mark, Telling, seen
from compress.searching.outcome import Outcome
from compress.searching.space import Space
from compress.workers import pool
from compress.workers.crew import Say, Task, said_of
from compress.workers.place import Place, opened

if TYPE_CHECKING:
    from compress.searching.search import Search
    from compress.searching.workshop import Workshop

FIRST_FAILURES = 3  # combinations that are set aside before one makes an engine: it is not for the combinations then


@dataclass(frozen=True)
class Ask:
    """A task: a combination, and the outcomes of the trials that ended before it began."""

    number: int
    picked: Mapping[str, Any]
    before: tuple[Outcome, ...]


@dataclass(frozen=True)
class Unfit:
    """What a worker's machine lacks: it says nothing of the combination, and ends the search."""

    fault: str


@dataclass(frozen=True)
class Processor:
    """The kind of processor, which decides what a time means."""

    model: str
    flags: tuple[str, ...]

    @classmethod
    def here(cls) -> Processor:
        """This machine's."""
        from compress.measure.speed.environment import environment

        own = environment()
        return cls(own.cpu, own.flags)

    def __str__(self) -> str:
        return f"{self.model} ({', '.join(self.flags) or 'no vector instructions'})"


@dataclass(frozen=True)
class Trying:
    """Makes the function that tries a combination, inside of a worker."""

    space: Space
    objectives: tuple[str, ...]
    limits: Mapping[str, Any]  # with the size as a share
    mark: Mark
    folder: str  # where relative paths begin
    output: str
    keys: tuple[str, ...]  # of the reference and its export, as the command has them
    processor: Processor | None  # the command's, where trials are timed

    def __call__(self, say: Say) -> Callable[[Ask], Outcome | Unfit]:
        """Open the reference.

        Raises:
            InputError: this machine has other files, not the store, or another processor where trials are timed.
        """
        with suppress(OSError):
            os.chdir(self.folder)
        with working():
            if self.processor is not None and (own := Processor.here()) != self.processor:
                raise InputError(
                    f"its processor is {own}, that of the command {self.processor}; a time on one is no time on the "
                    "other, so use machines of one kind, or search for what is no time, as --minimize size"
                )
            shop = self.opened()
            from compress.searching.row import of_the_machine
            from compress.searching.trial import evaluate
        listener = shop.listener = Telling(say)

        def tried(ask: Ask) -> Outcome | Unfit:
            listener.task = f"trial {ask.number}"
            try:
                return evaluate(shop, ask.picked, ask.before)
            except Exception as error:
                if of_the_machine(error):
                    return Unfit(said_of(error))
                raise

        return tried

    def opened(self) -> Workshop:
        """The workshop of this worker; the command has said what is made and found for it."""
        from compress.searching.goal import Goal, objective
        from compress.searching.recipes import possible, recipe_of
        from compress.searching.workshop import Workshop

        space, goal = self.space, Goal(tuple(objective(name) for name in self.objectives), self.limits)
        store = self.mark.look().prepare()
        shop = Workshop(space, recipe_of(space, possible(space)), goal, store, Path(self.output), Silent())
        if keys_of(shop) != self.keys:
            raise InputError(f"{space.path}: its files or its packages are not those that the command has; copy them")
        return shop


def keys_of(shop: Workshop) -> tuple[str, ...]:
    """The keys of the reference and of its export, and the pictures."""
    own = shop.first.plan.reference
    return own.key, shop.first.making.deployed(own).key, shop.tokens.fingerprint()


def side_by_side(search: Search, place: Place) -> None:
    """Let the workers of a place try until nothing further begins.

    Raises:
        InputError: no worker can work, a disk is full, or the first combinations all failed.
    """
    shop, study = search.shop, search.study

    def more() -> Task | None:
        if (asked := search.ask()) is None:
            return None
        number, picked = asked
        return Task(f"trial {number}", Ask(number, picked, tuple(study.outcomes())))

    def again(task: Task, fault: str) -> None:
        search.say(f"{task.name}: {fault}; begun again")

    with seen(shop.store) as mark:
        make = Trying(
            space=shop.space,
            objectives=tuple(each.name for each in shop.goal.objectives),
            limits=shop.goal.limits,
            mark=mark,
            folder=str(Path.cwd()),
            output=str(shop.output.absolute()),
            keys=keys_of(shop),
            processor=Processor.here() if shop.goal.timed else None,
        )
        threads = shop.first.recipe.bench.threads
        with (
            opened(no_more_than(place, search), make, threads, search.say) as crew,
            closing(pool.asked(crew, more, again)) as outcomes,
        ):
            failed = 0
            for each in outcomes:
                if isinstance(each.value, Unfit):
                    raise InputError(each.value.fault)
                ask: Ask = each.task.argument
                search.tell(ask.number, set_aside(ask.picked, each.fault) if each.fault else each.value)
                failed += bool(each.fault)
                if failed == FIRST_FAILURES and all(told.state == "refused" for told in study.outcomes()):
                    raise InputError(
                        f"the first {failed} combinations that were tried failed, the last one: {each.fault}"
                    )


def no_more_than(place: Place, search: Search) -> Place:
    """The place with no more workers of this machine than there are trials left."""
    left = search.trials_left()
    return replace(place, workers=max(1, min(place.workers, left))) if place.is_local else place


def set_aside(picked: Mapping[str, Any], fault: str) -> Outcome:
    """The outcome of a combination that failed twice."""
    from compress.searching.row import Row

    return Row(dict(picked)).outcome("refused", f"{fault}; it failed twice and was set aside")
