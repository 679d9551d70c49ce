"""The engines of one recipe side by side: each chain is made and verified by a worker, and found in the store.

The run itself makes and measures the shared passes first, and takes all times when no worker works any more. It ends as
any run does, with everything else in the store, so its report is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.core.lease import working
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models import families
from compress.models.adopted import AdoptedModel, opened
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.recipe import plan as plans
from compress.recipe.plan import Node, Plan
from compress.recipe.recipe import Recipe, Step
from compress.running.artifacts import Making
from compress.running.measurements import Measuring, stages_of
from compress.running.meeting import Mark, Telling, check_store, seen
from compress.workers import place as places
from compress.workers.crew import Say, Task
from compress.workers.place import Place
from compress.workers.pool import mapped
from export.runtime.counted import counted

if TYPE_CHECKING:
    from compress.core.store import Entry

NAMED = 3  # chains that failed are named in a message at most


def beside_others(plan: Plan) -> dict[str, tuple[Node, ...]]:
    """What workers make of each engine: its chain up to the first pass that times, which nothing may disturb."""
    found = {}
    for name, chain in plan.engines.items():
        timing = (place for place, node in enumerate(chain) if node.setting is not None and node.setting.takes_times)
        found[name] = chain[: next(timing, len(chain))]
    return {name: chain for name, chain in found.items() if chain}


def check_place(place: Place | None, recipe: Recipe, store: Store, say: Callable[[str], None]) -> Place | None:
    """The place, or None where workers have nothing to do; one worker of a cluster looks for the store.

    Raises:
        InputError: the cluster cannot be reached, or has not this store.
    """
    if place is None or len(recipe.engines) < 2 or not store.writable:
        if place is not None:
            why = "the store may only be read" if len(recipe.engines) > 1 else "the recipe has one engine"
            say(f"--on: {why}, so there is nothing to share; this process does everything")
        return None
    check_store(place, store)
    return place


@dataclass(frozen=True)
class Working:
    """Makes the function that makes and verifies a chain, inside of a worker."""

    recipe: Recipe
    mark: Mark
    folder: str  # where relative paths begin
    keys: Mapping[str, tuple[str, ...]]  # of every chain, as the run has them

    def __call__(self, say: Say) -> Callable[[str], None]:
        """Open the reference and plan the recipe again.

        Raises:
            InputError: this machine has other files, or not the store.
        """
        with suppress(OSError):
            os.chdir(self.folder)
        recipe, store, listener = self.recipe, self.mark.look(), Telling(say)
        torch.set_num_threads(recipe.bench.threads)  # as the run does: sums depend on it
        tokens = plans.load_tokens(recipe)
        plan = plans.make_plan(recipe, tokens)
        if keys_of(plan) != self.keys:
            raise InputError(f"{recipe.path}: its files or its packages are not those that the command has; copy them")
        store.prepare(node.key for node in plan.nodes if node.source)
        reference: ImageModel | AdoptedModel
        if recipe.form is Form.TORCH:
            reference = families.load(recipe.model, f"{recipe.path}: model")
        else:
            reference = opened(there(store, plan.reference).folder, recipe.bench.threads)
        making = Making(recipe, store, listener, tokens, reference, plan)
        for node in (plan.reference, *plan.trunk):
            making.told |= {node.key, making.deployed(node).key}
        measuring = Measuring(making)

        def made(engine: str) -> None:
            listener.task = f"engine {engine}"
            chain = beside_others(plan)[engine]
            try:
                for node in chain:
                    with working():
                        last = node is plan.engines[engine][-1]
                        measuring.untimed(node, stages_of(node) | ({"engines"} if last else set()))
            finally:
                making.entries.clear()  # they are no longer held
                store.release()

        return made


def ungated(recipe: Recipe) -> Recipe:
    """The recipe without gates: the run itself judges, and their class, which measures make, cannot be pickled."""
    engines = tuple(replace(each, steps=without_gates(each.steps)) for each in recipe.engines)
    return replace(recipe, gate=None, steps=without_gates(recipe.steps), engines=engines)


def without_gates(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Steps that nothing is held against."""
    return tuple(replace(step, gate=None) for step in steps)


def keys_of(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The keys of every chain."""
    return {name: tuple(node.key for node in chain) for name, chain in plan.engines.items()}


def there(store: Store, node: Node) -> Entry:
    """An artifact that the run made before."""
    found = store.find(node.key)
    assert found is not None
    return found


class Chains:
    """The chains of a run whose reference was measured."""

    def __init__(self, measuring: Measuring, place: Place) -> None:
        self.measuring, self.making, self.place = measuring, measuring.making, place
        self.recipe, self.store, self.plan = measuring.recipe, measuring.store, measuring.plan

    def make(self) -> None:
        """Make and measure the shared passes here, and let workers make and verify the chains.

        Raises:
            InputError: chains failed twice, or no worker can work; what was finished is in the store.
        """
        for node in self.plan.trunk:
            self.measuring.measure(node)
        chains, say = beside_others(self.plan), self.measuring.listener.say
        tasks = [Task(f"engine {name}", name) for name in chains]
        faults, done = {}, 0
        with seen(self.store) as mark:
            working_on = Working(ungated(self.recipe), mark, str(Path.cwd()), keys_of(self.plan))
            threads = self.recipe.bench.threads
            with (
                self.measuring.listener.work(f"make {counted(len(tasks), 'engine')} side by side") as progress,
                places.opened(self.place, working_on, threads, say) as crew,
            ):
                progress(0, len(tasks), {})
                for outcome in mapped(crew, tasks, lambda task, fault: say(f"{task.name}: {fault}; begun again")):
                    if outcome.fault:
                        faults[outcome.task.name] = outcome.fault
                        say(f"{outcome.task.name}: {outcome.fault}; set aside")
                        continue
                    for node in chains[outcome.task.argument]:
                        self.making.told |= {node.key, self.making.deployed(node).key}
                    done += 1
                    progress(done, len(tasks), {})
        if faults:
            raise InputError(set_aside(self.recipe, faults, len(tasks)))


def set_aside(recipe: Recipe, faults: Mapping[str, str], engines: int) -> str:
    """What is said of chains that failed twice."""
    named = "; ".join(f"{name} ({fault})" for name, fault in sorted(faults.items())[:NAMED])
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return (
        f"{recipe.path}: {len(faults)} of {counted(engines, 'engine')} failed twice and were set aside: {named}{more}; "
        f"all others are finished and in the store, the same command tries these again"
    )
