"""One trial: a combination of choices is made, measured and judged, cheap before dear, and stopped as soon as it fails.

What trials have in common lies in the store by its key, so it is made and measured once. Models are made, and measured
in everything but time, under a lease of the machine that they share; they are timed while no other trial works.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from compress.core.lease import alone, working
from compress.core.listener import Listener, Silent
from compress.core.settings import InputError, digest, one_line
from compress.core.store import Store, StoreError, is_full
from compress.measure import EngineMeasurement
from compress.measure.drift.fidelity import Fidelity
from compress.measure.quantity import Finding
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes.distill import Distill
from compress.recipe import plan as plans
from compress.recipe.gates import Gate, Key
from compress.recipe.plan import Node
from compress.recipe.preflight import LAYERS, Needs, check_requirements, drive, first_layers, pick_few
from compress.recipe.recipe import Recipe, describe
from compress.recipe.verdict import judge, no_evidence, promised
from compress.running.measurements import Measuring
from compress.running.pipeline import Run, load_reference
from compress.searching.goal import Goal, excess, judged_value
from compress.searching.outcome import REFUSED_EXCESS, Number, Outcome, hopeless
from compress.searching.recipes import recipe_of
from compress.searching.space import Space

FEW = 32  # pictures of a first look at drift: as many as are scored at once


class Stopped(Exception):  # noqa: N818 - an outcome, not a failure
    """A trial goes no further."""


class NotHereError(InputError):
    """This machine cannot measure what the goal asks for, whatever the combination."""


@dataclass
class Row:
    """What is known of a trial so far."""

    picked: dict[str, Any]
    engine: EngineMeasurement | None = None
    lacks: list[str] = field(default_factory=list)
    excess: float = 0.0
    found: dict[str, Number] = field(default_factory=dict)
    judged: list[str] = field(default_factory=list)
    breached: list[str] = field(default_factory=list)
    start: float | None = None
    training: str = ""

    def outcome(self, state: Any, reason: str, values: tuple[float, ...] = ()) -> Outcome:
        """The outcome that this is."""
        timed = self.engine.speed if self.engine else ()
        return Outcome(
            picked=self.picked,
            state=state,
            reason=reason,
            lacks=tuple(self.lacks),
            excess=REFUSED_EXCESS if state == "refused" else self.excess,
            found=dict(self.found),
            values=values,
            size_bytes=self.engine.size_bytes if self.engine else None,
            artifact=self.engine.artifact if self.engine else "",
            ms_per_token=min(timed, key=lambda each: each.batch).ms_per_token if timed else None,
            judged=tuple(self.judged),
            breached=tuple(self.breached),
            start=self.start,
            training=self.training,
        )


class Workshop:
    """What all trials of a search work with: the reference with its scores and its engine, the pictures, the store."""

    def __init__(self, space: Space, base: Recipe, goal: Goal, store: Store, output: Path, listener: Listener) -> None:
        """Read the reference, make its plain export, and see that its predictions can show drift.

        Raises:
            InputError: an input is wrong, the model is a graph, or no drift could show.
        """
        if base.form is not Form.TORCH:
            raise InputError(f"{space.path}: model: is an ONNX graph; a search tries passes of a model in PyTorch")
        self.space, self.store, self.output, self.listener = space, store, output, listener
        torch.set_num_threads(base.bench.threads)
        self.tokens = plans.load_tokens(base)
        self.reference: ImageModel = load_reference(base, self.tokens)
        self.rehearsed: set[str] = set()
        self.first, self.first_few = self.measuring(base), self.measuring(base, few=True)
        own = self.first.plan.reference
        with working():
            self.reference_bytes = self.first.making.make(self.first.making.deployed(own)).size_bytes
            self.goal = goal.sized(self.reference_bytes)
            if (gate := self.goal.gate) is not None and gate.judges_drift:
                found = self.first.evidence()
                if not found.sound:
                    raise InputError(f"{space.path}: {no_evidence(found, 'the reference').text}")

    @property
    def identity(self) -> tuple[str, str]:
        """The reference by its content, and the pictures."""
        return self.first.plan.reference.key, self.tokens.fingerprint()

    def run(self, recipe: Recipe, say: Listener | None = None) -> Run:
        """A run of a recipe, which makes and measures what is asked of it."""
        plan = plans.make_plan(recipe, self.tokens)
        return Run(recipe, self.store, self.output, say or self.listener, self.tokens, self.reference, plan)

    def measuring(self, recipe: Recipe, *, few: bool = False) -> Measuring:
        """What measures a recipe's models, on all of its held-out pictures or on a few."""
        if few:
            count = min(FEW, recipe.tokens.held_out)
            recipe = replace(recipe, tokens=replace(recipe.tokens, held_out=count))
        return self.run(recipe, Silent() if few else None).measuring

    def share_reference(self, made: Measuring, first: Measuring) -> Measuring:
        """Let a trial use the reference's scores and engine of the first one."""
        key = first.plan.reference.key
        made.sides[key] = first.side(first.plan.reference)
        deployed = first.making.deployed(first.plan.reference).key
        if deployed in first.making.engines:
            made.making.engines[deployed] = first.making.engines[deployed]
        return made

    def evaluate(self, picked: Mapping[str, Any], before: Sequence[Outcome]) -> Outcome:
        """Make, measure and judge a combination; `before` are the outcomes of trials that ended.

        An unexpected error refuses the combination, so that one does not end a search of hours, once another one was
        measured.

        Raises:
            InputError: the disk is full or an input went away; the trial says nothing of its combination.
        """
        started, row = time.monotonic(), Row(dict(picked))
        try:
            recipe = recipe_of(self.space, picked)
            self.store.begin(self.space.path, self.run(recipe).making.keys())
            outcome = Trial(self, recipe, row, before).outcome()
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
            self.store.release()
        return replace(outcome, seconds=round(time.monotonic() - started, 3))

    def rehearse(self, recipe: Recipe, nodes: Sequence[Node], run: Run) -> None:
        """Rehearse the chain on a two-layer copy where a step of `nodes` was not rehearsed with its settings before.

        Raises:
            InputError: the chain does not work.
        """
        settings = {digest(node.made_by["pass"], node.made_by["settings"]) for node in nodes}
        if settings <= self.rehearsed:
            return
        steps = [node for node in run.plan.nodes if node.source is not None]
        copy = first_layers(self.reference, LAYERS)
        with tempfile.TemporaryDirectory() as room, self.listener.work("preflight") as progress, working():
            drive(recipe, run.plan, steps, copy, pick_few(self.tokens), Path(room) / "two", Needs({}, {}),
                  lambda at: progress(at, len(steps), {}))  # fmt: skip
        self.rehearsed |= settings


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
            with working():
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
            self.note(each.name, value)
        return self.row.outcome("measured", "", tuple(value.value for value in values if value is not None))

    @property
    def engine(self) -> EngineMeasurement:
        """What was measured of the engine so far."""
        assert self.row.engine is not None
        return self.row.engine

    @engine.setter
    def engine(self, engine: EngineMeasurement) -> None:
        self.row.engine = engine

    def make(self) -> None:
        """Make every artifact; look at a few pictures in front of a training, and behind the last step that loses."""
        training = next((at for at, node in enumerate(self.nodes) if isinstance(node.setting, Distill)), None)
        lossy = [at for at, node in enumerate(self.nodes) if node.setting and not node.setting.keeps_numbers]
        for at, node in enumerate(self.nodes):
            if at == training:
                self.before_training(at)
            with working():
                self.making.make(node)
            if at == (lossy[-1] if lossy else -1):
                self.first_look(node)

    def before_training(self, at: int) -> None:
        """Rehearse what is behind, and do not train what started as far off as one that did not come back.

        Raises:
            Stopped: it started as far off as one that did not come back.
        """
        rest = self.nodes[at:]
        if not all(self.shop.store.contains(node.key) for node in rest):
            self.shop.rehearse(self.recipe, rest, self.run)
        if (key := next(iter(self.fidelities()), None)) is None:
            return
        source = self.nodes[at].source
        assert source is not None
        if source is self.plan.reference:
            return
        finding = self.finding_of_few(source, key)
        steps = [*self.recipe.steps, *(step for engine in self.recipe.engines for step in engine.steps)]
        self.row.start = finding.value if key.quantity.better == "lower" else -finding.value
        self.row.training = digest([describe(step) for step in steps[at:]])
        other = hopeless(self.row.start, self.row.training, key.limit.key, self.before)
        if other is not None:
            self.row.excess = max(other.excess, excess(key, finding.value, getattr(self.gate, key.limit.key)))
            text = (
                f"{self.name}: {key.limit.key} {key.quantity.words(finding.value)} in front of its training; trial "
                f"{other.number} began with no more, was trained alike, and ended beyond the budget"
            )
            self.row.lacks.append(text)
            raise Stopped(text)

    def fidelities(self) -> list[Key]:
        """The limits on drift that a few pictures can show."""
        return [key for key, _ in self.goal.judged() if key.measure is Fidelity and key.limit.evidence]

    def finding_of_few(self, node: Node, key: Key) -> Finding:
        """Drift of a few pictures."""
        with working():
            found = Fidelity.measured(self.few.subject(node))
        assert found is not None
        low, high = getattr(found, f"{key.field}_ci95")
        return Finding(getattr(found, key.field), (low, high))

    def first_look(self, node: Node) -> None:
        """Stop where even the favourable end of the drift of a few pictures is beyond its limit.

        Raises:
            Stopped: it is.
        """
        for key in self.fidelities():
            limit, finding = getattr(self.gate, key.limit.key), self.finding_of_few(node, key)
            low, high = finding.interval or (finding.value, finding.value)
            end = high if key.quantity.better == "higher" else low
            if excess(key, end, limit) > 0:
                self.row.excess = excess(key, finding.value, limit)
                self.row.judged.append(key.limit.key)
                self.row.breached.append(key.limit.key)
                self.note(key.limit.key, finding)
                words = key.quantity.words
                text = (
                    f"{self.name}: {key.limit.key} {words(finding.value)} on {FEW} pictures, the favourable end of the "
                    f"95 % interval {words(end)}; the budget is {words(limit)}"
                )
                self.row.lacks.append(text)
                raise Stopped(text)

    def weigh(self) -> None:
        """Judge the size.

        Raises:
            Stopped: it is too large.
        """
        last = self.nodes[-1]
        entry = self.making.make(last)
        torch_nodes = [node for node in (self.plan.reference, *self.nodes) if node.form is Form.TORCH]
        model = self.making.model(torch_nodes[-1])
        assert isinstance(model, ImageModel)
        self.engine = EngineMeasurement(
            name=self.name,
            form=last.form.value,
            parameters=model.parameters(),
            size_bytes=entry.size_bytes,
            size_share=entry.size_bytes / self.shop.reference_bytes,
            notes=dict(entry.notes),
            artifact=last.key,
            target=self.making.engine(last).manifest.target,
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
                self.note(key.limit.key, finding)
                self.row.excess = max(self.row.excess, excess(key, judged_value(key, finding, gate), limit))
        self.row.breached += [each.measurement for each in breaches]
        self.row.lacks += [each.text for each in (*breaches, *broken)]
        if broken or (breaches and not self.row.excess):
            self.row.excess = max(self.row.excess, 1.0)  # a promise has no share of a limit; what is not measured, too
        if self.row.lacks:
            raise Stopped(self.row.lacks[0])

    def note(self, name: str, finding: Finding) -> None:
        """Keep a number."""
        self.row.found[name] = Number(finding.value, finding.interval)


def of_the_machine(error: BaseException) -> bool:
    """Whether an error is of the disk, of files or of memory, and says nothing of a combination."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, (OSError, MemoryError, NotHereError, StoreError)) or is_full(each):
            return True
        each = each.__cause__
    return False
