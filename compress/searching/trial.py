"""One trial: a combination of choices is made, measured and judged, cheap before dear, and stopped as soon as it fails.

What trials have in common lies in the store by its key, so it is made and measured once. Models are made, and measured
in everything but time, under a lease of the machine that they share; whatever takes times does so while no other trial
of the machine works.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from compress.core.lease import alone, working
from compress.core.settings import InputError, one_line
from compress.measure import EngineMeasurement
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes.distill import Distill
from compress.recipe.gates import Gate, Key
from compress.recipe.preflight import check_requirements
from compress.recipe.recipe import Recipe
from compress.recipe.verdict import judge, promised
from compress.searching import looks
from compress.searching.goal import excess, judged_value
from compress.searching.outcome import Outcome
from compress.searching.recipes import recipe_of
from compress.searching.row import NotHereError, Row, Stopped, of_the_machine
from compress.searching.workshop import Workshop


def evaluate(shop: Workshop, picked: Mapping[str, Any], before: Sequence[Outcome]) -> Outcome:
    """Make, measure and judge a combination; `before` are the outcomes of trials that ended.

    An unexpected error refuses the combination, so that one does not end a search of hours, once another one was
    measured.

    Raises:
        InputError: the disk is full or an input went away; the trial says nothing of its combination.
    """
    started, row = time.monotonic(), Row(dict(picked))
    try:
        outcome = Trial(shop, recipe_of(shop.space, picked), row, before).outcome()
    except Stopped as stop:
        outcome = row.outcome("stopped", str(stop))
    except InputError as error:
        if of_the_machine(error):
            raise
        outcome = row.outcome("refused", str(error))
    except Exception as error:
        if of_the_machine(error) or not any(each.state == "measured" for each in before):
            raise
        outcome = row.outcome("refused", one_line(f"an unexpected error, {type(error).__name__}: {error}"))
    finally:
        shop.store.release()
    return replace(outcome, seconds=round(time.monotonic() - started, 3))


class Trial:
    """A combination on its way from its recipe to its outcome."""

    def __init__(self, shop: Workshop, recipe: Recipe, row: Row, before: Sequence[Outcome]) -> None:
        self.shop, self.recipe, self.row, self.before, self.goal = shop, recipe, row, before, shop.goal
        self.run = shop.run(recipe)
        self.making, self.plan = self.run.making, self.run.plan
        self.measuring = shop.share_reference(self.run.measuring, shop.first)
        self.few = shop.share_reference(shop.measuring(recipe, few=True), shop.first_few)
        ((self.name, chain),) = self.plan.engines.items()
        self.nodes = [*self.plan.trunk, *chain]

    @property
    def gate(self) -> Gate:
        """The budgets; an empty gate without any."""
        return self.goal.gate or Gate()

    def outcome(self) -> Outcome:
        """The outcome of everything.

        Raises:
            Stopped: a budget is not kept, or a promise.
            InputError: the combination makes no engine.
        """
        check_requirements(self.recipe, self.plan, self.shop.reference)
        self.make()
        self.weigh()
        for measure in self.goal.measures:
            with self.held(times=measure.timed):
                found = measure.measured(self.measuring.subject(self.nodes[-1]))
            if found is not None:
                self.engine = self.engine.with_results({measure.name: found.in_row()})
            self.judge([key for key, _ in self.goal.judged() if key.measure is measure])
        if self.goal.timed:
            self.time()
            self.judge([key for key, _ in self.goal.judged() if key.measure is None and key.deployed])
        values = [each.finding(self.engine, self.gate) for each in self.goal.objectives]
        for each, value in zip(self.goal.objectives, values, strict=True):
            if value is None:
                raise InputError(f"{self.recipe.path}: engines.{self.name}: {each.name} is not measured of this engine")
            self.row.note(each.name, value)
        return self.row.outcome("measured", "", tuple(value.value for value in values if value is not None))

    @property
    def engine(self) -> EngineMeasurement:
        """What was measured of the engine so far."""
        assert self.row.engine is not None
        return self.row.engine

    @engine.setter
    def engine(self, engine: EngineMeasurement) -> None:
        self.row.engine = engine

    def held(self, *, times: bool) -> AbstractContextManager[None]:
        """The lease for a piece of work: that of this trial alone where it takes times."""
        return alone(self.shop.listener.say) if times else working()

    def make(self) -> None:
        """Make every artifact; look at a few pictures in front of a training, and behind the last step that loses."""
        training = next((at for at, node in enumerate(self.nodes) if isinstance(node.setting, Distill)), None)
        lossy = [at for at, node in enumerate(self.nodes) if node.setting and not node.setting.keeps_numbers]
        for at, node in enumerate(self.nodes):
            if at == training:
                looks.before_training(self, at)
            with self.held(times=node.setting is not None and node.setting.takes_times):
                self.making.make(node)
            if at == (lossy[-1] if lossy else -1):
                looks.first_look(self, node)

    def weigh(self) -> None:
        """Judge the size.

        Raises:
            Stopped: it is too large.
        """
        last = self.nodes[-1]
        torch_nodes = [node for node in (self.plan.reference, *self.nodes) if node.form is Form.TORCH]
        with working():
            entry = self.making.make(last)
            model, opened = self.making.model(torch_nodes[-1]), self.making.engine(last)
        assert isinstance(model, ImageModel)
        self.engine = EngineMeasurement(
            name=self.name,
            form=last.form.value,
            parameters=model.parameters(),
            size_bytes=entry.size_bytes,
            size_share=entry.size_bytes / self.shop.reference_bytes,
            notes=dict(entry.notes),
            artifact=last.key,
            target=opened.manifest.target,
        )
        self.judge([key for key, _ in self.goal.judged() if key.measure is None and not key.deployed])

    def time(self) -> None:
        """Time the engine beside the reference's, at the batches that the goal asks for.

        Raises:
            NotHereError: it does not run on this machine as it is deployed.
        """
        last = self.nodes[-1]
        opened = self.making.engine(last)
        if not opened.runs_as_deployed:
            raise NotHereError(
                f"{self.recipe.path}: engines.{self.name}: is for {opened.manifest.target}, which does not run on this "
                "machine, so it cannot be timed here"
            )
        batches = self.recipe.bench.batch
        every = any(key.limit.key in ("speedup", "peak_mib") for key, _ in self.goal.judged())
        rows = []
        with alone(self.shop.listener.say):
            for batch in batches if every else (min(batches),):
                rows += self.measuring.speed_at(last, None, batch, eager=False)
        deployed = self.making.deployed(self.plan.reference).key
        if deployed in self.making.engines:  # not where the times were in the store
            self.shop.first.making.engines.setdefault(deployed, self.making.engines[deployed])
        self.engine = replace(self.engine, speed=tuple(rows))

    def judge(self, keys: Sequence[Key]) -> None:
        """Note what was found of these limits.

        Raises:
            Stopped: one is not kept, or a promise of what was measured.
        """
        gate = self.gate
        wanted = {key.limit.key for key in keys}
        breaches = [each for each in judge(gate, self.engine, self.name) if each.measurement in wanted]
        broken = promised(self.engine, self.name)
        for key in keys:
            limit = getattr(gate, key.limit.key)
            self.row.judged.append(key.limit.key)
            for finding in key.findings(self.engine, gate):
                self.row.note(key.limit.key, finding)
                self.row.excess = max(self.row.excess, excess(key, judged_value(key, finding, gate), limit))
        self.row.breached += [each.measurement for each in breaches]
        self.row.lacks += [each.text for each in (*breaches, *broken)]
        if broken or (breaches and not self.row.excess):
            self.row.excess = max(self.row.excess, 1.0)  # a promise has no share of a limit; what is not measured, too
        if self.row.lacks:
            raise Stopped(self.row.lacks[0])
