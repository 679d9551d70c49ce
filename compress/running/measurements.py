"""Measure each step of a run as deployed; what was measured once is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core.lease import timing
from compress.core.listener import step
from compress.core.memory import give_back
from compress.core.settings import InputError, digest, parse, plain
from compress.measure import Measurement, measures
from compress.measure.drift import evidence, floor
from compress.measure.drift.evidence import Evidence
from compress.measure.drift.fidelity import Fidelity
from compress.measure.drift.floor import Floor
from compress.measure.measure import Stage
from compress.measure.pictures.classify import DIGITS
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.environment import environment
from compress.measure.speed.memory import peak_mib
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import REST_S, SPEED_VERSION, SpeedRow, paired
from compress.measure.subject import Given, Side, Subject, beside
from compress.models.artifact import Form
from compress.models.candidate import Candidate
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import examples
from compress.passes import Notes
from compress.recipe.plan import Node
from compress.report.data.pays import step_pays
from compress.running.artifacts import Making
from export.runtime.engine import Engine
from export.runtime.sampling import Sampler

DRAWN_PICTURES = 64  # that a reference draws, of models whose pictures no classifier looks at
EAGER_REPEATS = 6


def given_of(making: Making) -> Given:
    """What the models of a run are given."""
    recipe, reference = making.recipe, making.reference
    held_out, bench = making.tokens.part("held_out", recipe.tokens.held_out), recipe.bench
    samples = bench.samples if recipe.tokens.source == DIGITS else min(bench.samples, DRAWN_PICTURES)
    return Given(
        shape=reference.shape,
        picture=reference.picture,
        examples=examples(reference.shape, held_out, recipe.seed),
        seed=recipe.seed,
        samples=samples,
        source=recipe.tokens.source,
        fingerprint=held_out.fingerprint(),
        tokens=making.tokens,
        texts=held_out.features,
        threads=bench.threads,
        repeats=bench.repeats,
        batch=min(bench.batch),
        inception=bench.inception,
        store=making.store,
        listener=making.listener,
    )


class NodeSide(Side):
    """The model of a step, opened only where something is not in the store yet."""

    def __init__(self, measuring: Measuring, node: Node) -> None:
        self.measuring, self.making, self.node = measuring, measuring.making, node
        super().__init__(node.name, measuring.given, measuring.making.reference, node.key)
        self.place = f"{self.making.recipe.path}: {node.name}"

    @property
    def model(self) -> Candidate:
        """The model in its own form; one in PyTorch is read anew each time, so that memory holds one."""
        if self.node is self.making.plan.reference:
            return self.making.reference
        return self.making.model(self.node) if self.node.form is Form.TORCH else self.engine  # type: ignore[return-value]

    @property
    def engine(self) -> Engine:
        """The engine that stands for it."""
        return self.making.engine(self.node)

    @property
    def folder(self) -> Path:
        """The folder of that engine."""
        return self.making.make(self.making.deployed(self.node)).folder

    @property
    def exported(self) -> Side:
        """The step's plain export, or itself."""
        return self.measuring.side(self.making.deployed(self.node))

    @property
    def unrounded(self) -> Side | None:
        """The step before the one from which on products round their inputs."""
        begun = self.measuring.rounding_begun(self.node)
        return self.measuring.side(begun.source) if begun is not None and begun.source is not None else None

    @property
    def kept_layers(self) -> list[int] | None:
        """The reference's layers that are left behind the passes up to the step; None if all are."""
        return kept_layers(self.making, self.node)


def kept_layers(making: Making, node: Node) -> list[int] | None:
    """The reference's layers that are left behind the passes up to a node; None if all are."""
    if node.source is None:
        return None
    left, removed = kept_layers(making, node.source), Notes.read(making.make(node).notes).removed_layers
    if removed is None or not isinstance(making.reference, ImageModel):
        return left
    before = range(len(making.reference.transformer.config.layers)) if left is None else left
    return [layer for place, layer in enumerate(before) if place not in removed]


def sampler_of(making: Making, node: Node) -> Sampler:
    """The reference's sampler, with the guidance that a pass up to a node put inside the model."""
    if node.source is None:
        return making.reference.sampler
    if (inside := Notes.read(making.make(node).notes).guidance) is None:
        return sampler_of(making, node.source)
    return replace(making.reference.sampler, cfg_scale=inside).with_guidance_inside()


def stages_of(node: Node) -> set[Stage]:
    """What is measured of a node as a step; of an engine there is more when it is published."""
    stages: set[Stage] = set() if node.source is None else {"steps"}
    return stages if node.form is Form.TORCH else stages | {"graphs"}


class Measuring:
    """What was measured of a run so far."""

    def __init__(self, making: Making) -> None:
        self.making, self.recipe, self.store, self.listener = making, making.recipe, making.store, making.listener
        self.reference, self.plan = making.reference, making.plan
        self.given = given_of(making)
        self.sides: dict[str, Side] = {}
        self.parameters = {self.plan.reference.key: self.reference.parameters()}
        self.measured: dict[str, Measurement] = {}

    def side(self, node: Node) -> Side:
        """A node's model with what was made with it."""
        if node.key not in self.sides:
            self.sides[node.key] = NodeSide(self, node)
        return self.sides[node.key]

    def subject(self, node: Node, other: Node | None = None) -> Subject:
        """A node beside the reference, or beside another one."""
        sampler = sampler_of(self.making, node)
        return beside(self.side(node), self.side(other or self.plan.reference), sampler)

    def rounding_begun(self, node: Node) -> Node | None:
        """The step from which on products round their inputs, as deployed; None where a node's do not."""
        if not self.side(node).rounds_inputs:
            return None
        return (node.source and self.rounding_begun(node.source)) or node

    def rounding_kl(self, node: Node) -> float:
        """Nats per token by which that step moved logits; 0 where a node's products do not round their inputs."""
        begun = self.rounding_begun(node)
        moved = self.measure(begun).fidelity_vs_previous if begun is not None else None
        return moved.kl if moved is not None else 0.0

    def results(self, node: Node, stages: set[Stage], *, timed: bool = True) -> dict[str, Any]:
        """What the measures of these stages find, as rows hold it; a name that finds nothing is left out.

        Without `timed`, those that take times are left out too.
        """
        subject = self.subject(node)
        chosen = [measure for measure in measures() if measure.stage in stages and (timed or not measure.timed)]
        found = {measure.name: measure.measured(subject) for measure in chosen}
        return {name: result.in_row() for name, result in found.items() if result is not None}

    def untimed(self, node: Node, stages: set[Stage]) -> None:
        """Make a node and let the store have all that `measure` will look for there, but for what takes times."""
        with step(f"measure {node.name}"):
            self.making.make(self.making.deployed(node))
            self.results(node, stages, timed=False)
            if node.source is not None:
                Fidelity.measured(self.subject(node, node.source))
        self.forget(node)

    def remembered(self, *key: Any, measure: Any) -> dict[str, Any]:
        """The store's measurement of this key, or a new one."""
        return self.store.measurement(digest(*key), lambda: plain(measure()), self.listener.say)

    def floor(self) -> Floor | None:
        """How far the reference drifts from itself in another runtime and in bf16; None of a graph."""
        if self.plan.reference.form is not Form.TORCH:
            return None
        reference = self.side(self.plan.reference)
        key = ("floor", floor.VERSIONS, reference.key, *self.given.scored, *self.given.drawn, plain(environment()))
        return parse(Floor, self.remembered(*key, measure=lambda: floor.floor(reference)), "stored noise floor")

    def evidence(self) -> Evidence:
        """Whether the reference's predictions of the held-out pictures can show drift at all."""
        reference, scored = self.side(self.plan.reference), self.given.examples.scored
        key = ("evidence", evidence.VERSION, reference.key, *self.given.scored)
        found = self.remembered(*key, measure=lambda: evidence.evidence(reference.scores, scored))
        return parse(Evidence, found, "stored evidence")

    def speed(self, node: Node, previous: Node | None) -> tuple[SpeedRow, ...]:
        """Rows of a node's engine, interleaved with the reference's and the previous node's.

        Eager PyTorch, where the model has that form, is timed beside the reference and the last node of each engine's
        chain. A node that is deployed as the one before it (a plain export) has that one's rows, and one for a runtime
        that is not here has none.
        """
        if node.form is not Form.TORCH and not self.making.engine(node).runs_as_deployed:
            return ()
        eager = self.plan.reference.form is Form.TORCH and (
            previous is None or node in [chain[-1] for chain in self.plan.engines.values()]
        )
        if previous is not None and not eager and self.making.deployed(node).key == self.making.deployed(previous).key:
            rows = self.measure(previous).speed
            return tuple(replace(row, speedup_vs_previous=None, speedup_vs_previous_ci95=None) for row in rows)
        return tuple(
            row for batch in self.recipe.bench.batch for row in self.speed_at(node, previous, batch, eager=eager)
        )

    def speed_at(self, node: Node, previous: Node | None, batch: int, *, eager: bool) -> list[SpeedRow]:
        """The rows of one batch size."""
        bench = self.recipe.bench
        engines = {"own": self.making.deployed(node), "reference": self.making.deployed(self.plan.reference)}
        if previous is not None:
            engines["previous"] = self.making.deployed(previous)
        distinct = {node.key: node for node in engines.values()}
        names = {role: engine.key for role, engine in engines.items()}
        labels, features = self.given.conditions(batch)
        length = self.reference.length

        def measure() -> dict[str, Any]:
            runners = {key: Drawing(self.making.engine(each), labels, features) for key, each in distinct.items()}
            repeats = bench.repeats
            if eager:
                runners["eager"] = Drawing(self.reference, labels, features)
                repeats = min(repeats, EAGER_REPEATS)
            with (
                timing(self.listener.say),
                pinned(bench.threads),
                self.listener.work(f"time {node.name}, batch {batch}") as progress,
            ):
                timings = paired(
                    runners,
                    repeats,
                    seed=self.recipe.seed,
                    rest_s=REST_S if eager else 0.0,
                    report=lambda done, rounds: progress(done, rounds, {}),
                )
            rounds = {key: runner.of_rounds(len(timings.seconds[key])) for key, runner in runners.items()}
            own = timings.row(
                names["own"],
                runtime=self.making.engine(engines["own"]).runtime,
                batch=batch,
                length=length,
                reference=names["reference"],
                previous=names.get("previous"),
                baseline="eager" if eager else None,
                peak_mib=self.peak_mib(engines["own"], batch),
                rounds=rounds[names["own"]],
            )
            rows = [own]
            if eager and node is self.plan.reference:
                rows.append(
                    timings.row(
                        "eager",
                        runtime="torch eager",
                        batch=batch,
                        length=length,
                        reference=names["reference"],
                        rounds=rounds["eager"],
                    )
                )
            return {"rows": rows}

        key = ("speed", SPEED_VERSION, names, batch, bench.threads, bench.repeats, eager, plain(environment()))
        return [parse(SpeedRow, row, "stored speed") for row in self.remembered(*key, measure=measure)["rows"]]

    def peak_mib(self, node: Node, batch: int) -> float:
        """Peak memory of a process that draws one batch."""
        try:
            return peak_mib(self.making.make(node).folder, batch, self.recipe.bench.threads)
        except RuntimeError as error:
            raise InputError(f"{self.recipe.path}: {node.name}: {error}") from error

    def measure(self, node: Node) -> Measurement:
        """Everything that is measured of one step."""
        if node.key not in self.measured:
            with step(f"measure {node.name}"):
                self.measured[node.key] = self.of(node)
            self.forget(node)
        return replace(self.measured[node.key], name=node.name)

    def forget(self, node: Node) -> None:
        """Keep scores and engines of the reference, of this step and of the one before, which the next one needs.

        An opened engine holds its weights and the memory that it scored with, so those of a long chain add up.
        """
        needed = [each for each in (self.plan.reference, node, node.source) if each is not None]
        kept = {each.key for each in needed}
        for key, side in self.sides.items():
            if key not in kept:
                side.forget()
        self.making.close_engines(needed)
        give_back()

    def of(self, node: Node) -> Measurement:
        """Measure one step now."""
        previous = node.source
        entry = self.making.make(self.making.deployed(node))
        if node.form is Form.TORCH and node.key not in self.parameters:
            model = self.making.model(node)
            assert isinstance(model, ImageModel)
            self.parameters[node.key] = model.parameters()
        elif previous is not None:
            self.parameters.setdefault(node.key, self.parameters[previous.key])
        reference_size = self.making.make(self.making.deployed(self.plan.reference)).size_bytes
        notes = dict(self.making.make(node).notes) if previous is not None else {}
        results = self.results(node, stages_of(node))
        measurement = Measurement(
            name=node.name,
            form=node.form.value,
            parameters=self.parameters[node.key],
            size_bytes=entry.size_bytes,
            size_share=entry.size_bytes / reference_size,
            fidelity_vs_previous=Fidelity.measured(self.subject(node, previous)) if previous else None,
            speed=self.speed(node, previous),
            exact=node.setting.keeps_numbers if node.setting else True,
            notes=notes,
            artifact=node.key,
        ).with_results(results)
        if previous is not None:
            measurement = replace(measurement, pays=step_pays(measurement, self.measure(previous)))
        return measurement
