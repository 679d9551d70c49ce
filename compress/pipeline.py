"""Find or make each artifact of a recipe, measure it as deployed, judge it, and write the run's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress import artifact
from compress import plan as plans
from compress import report as reports
from compress.artifact import Form
from compress.candidate import drawing, open_engine
from compress.listener import Listener
from compress.measure import EngineMeasurement, Measurement, decoding
from compress.measure.classify import ClassAccuracy, DigitClassifier
from compress.measure.decoding import Decoding
from compress.measure.environment import environment
from compress.measure.fidelity import Fidelity, fidelity
from compress.measure.images import save_pair
from compress.measure.memory import peak_mib
from compress.measure.single_file import SingleFile, single_file
from compress.measure.speed import SpeedRow, paired
from compress.models import families
from compress.models.adopted import AdoptedModel, opened
from compress.models.examples import examples
from compress.models.image_model import ImageModel
from compress.passes import Context
from compress.plan import Node, Plan
from compress.preflight import rehearse
from compress.recipe import Recipe, Step
from compress.report import Report
from compress.report.markdown import markdown
from compress.report.pays import pays
from compress.settings import InputError, digest, parse, plain
from compress.store import ENTRY, Entry, Store, disk_error, file_hash
from compress.tokens import check_fits
from compress.verdict import Breach, Verdict, judge
from export.drawing import conditions
from export.engine import Engine, low_precision_share
from export.manifest import IMAGE_DECODER

# An exact pass may move logits by rounding only: fp32 sums in another order stay below this; what quantizes activations
# may round a tie the other way, so for quantized models the distribution is held to, not the logit.
EXACT_LOGIT = 1e-3
EXACT_KL = 1e-4
CACHED_LOOP = "cached_loop"  # what the notes call the drift of the cached loop
STEPWISE_PICTURES = 8
PAIRED_PICTURES = 20
PAIRED_ROW = 6  # of a model without classes
EAGER_REPEATS = 8
MEASURED_BY = 1  # goes up when a measurement changes its meaning, so stored ones are not reused


def load_reference(recipe: Recipe, tokens: TokenSet) -> ImageModel:
    """The untouched model, checked against the tokens."""
    model = families.load(recipe.model, f"{recipe.path}: model")
    check_fits(tokens, model, f"{recipe.path}: tokens")
    return model


def adopt_reference(recipe: Recipe, tokens: TokenSet, plan: Plan, store: Store, listener: Listener) -> AdoptedModel:
    """The untouched model that is an ONNX graph, from the store or made now: exporting a large one takes minutes."""

    def write(folder: Path) -> dict[str, Any]:
        with listener.work("read the model") as progress:
            progress(0, 1, {})
            families.load_graph(recipe.model, f"{recipe.path}: model").model.save(folder)
        return {}

    entry, _ = store.make(plan.reference.key, plan.reference.made_by, write, listener.say)
    model = opened(entry.folder, recipe.bench.threads)
    check_fits(tokens, model, f"{recipe.path}: tokens")
    return model


def run(recipe: Recipe, store: Store, output: Path, listener: Listener, preflight: bool = True) -> Report:
    """Drive a recipe from its checkpoint to judged engines in `output`.

    Raises:
        InputError: an input is wrong or a pass cannot do what it is asked; what was finished is in the store.
    """
    torch.set_num_threads(recipe.bench.threads)  # sums, and so weights, depend on their number in the last bit
    tokens = plans.load_tokens(recipe)
    reference: ImageModel | AdoptedModel
    if recipe.form is Form.TORCH:
        reference = load_reference(recipe, tokens)
        plan = plans.make_plan(recipe, tokens)
        store.prepare()
        prepare_output(output)
        if preflight and not all(store.contains(node.key) for node in plan.nodes if node.source):
            listener.say(rehearse(recipe, plan, reference, tokens, listener).words())
    else:  # a graph has no two-layer copy to rehearse with, and no pass on graphs takes long
        plan = plans.make_plan(recipe, tokens)
        store.prepare()
        prepare_output(output)
        reference = adopt_reference(recipe, tokens, plan, store, listener)
    return Run(recipe, store, output, listener, tokens, reference, plan).report()


def prepare_output(output: Path) -> None:
    """Make the run's folder before anything long begins, so that a missing permission is found now."""
    probe = output / ".probe"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output {output}: cannot be written ({error.strerror}); choose another with -o") from error


class Run:
    """One run of a recipe: what was made and opened so far, so that nothing is done twice."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        output: Path,
        listener: Listener,
        tokens: TokenSet,
        reference: ImageModel | AdoptedModel,
        plan: Plan,
    ) -> None:
        self.recipe, self.store, self.output, self.listener = recipe, store, output, listener
        self.tokens, self.reference, self.plan = tokens, reference, plan
        self.held_out = tokens.part("held_out", recipe.tokens.held_out)
        self.asked = examples(reference.shape, self.held_out, recipe.seed)
        self.tokens_key = digest(tokens.fingerprint(), recipe.tokens.calibration)
        self.entries: dict[str, Entry] = {}
        self.scores: dict[str, NDArray[np.float32]] = {}
        self.engines: dict[str, Engine] = {}
        self.parameters = {plan.reference.key: reference.parameters()}
        self.measured: dict[str, Measurement] = {}
        self.pictures: dict[str, str] = {}

    # Making

    def make(self, node: Node) -> Entry:
        """The node's artifact, from the store or made now (a reference that is a graph was made first of all)."""
        if node.key in self.entries:
            return self.entries[node.key]
        if node.source is None and (entry := self.store.find(node.key)) is not None:
            return self.entries.setdefault(node.key, entry)
        assert node.source is not None
        assert node.setting is not None
        source, setting = node.source, node.setting

        def write(folder: Path) -> dict[str, Any]:
            model = self.model(source)  # may make what comes before, with messages and progress of its own
            with self.listener.work(node.name) as progress:
                context = Context(
                    reference=self.reference,  # type: ignore[arg-type]  # only torch passes read it, and only of torch
                    tokens=self.tokens,
                    calibration=self.recipe.tokens.calibration,
                    seed=self.recipe.seed,
                    workspace=self.store.workspace(node.key),
                    report=progress,
                )
                try:
                    outcome = setting.run(model, context)
                except InputError as error:
                    raise InputError(f"{self.recipe.path}: {node.name}: {error}") from error
            artifact.save(outcome.model, folder)
            return outcome.notes

        entry, reused = self.store.make(node.key, node.made_by, write, self.listener.say)
        self.listener.say(f"{node.name}: {'reused' if reused else 'made'} {node.key[:12]}")
        self.entries[node.key] = entry
        return entry

    def model(self, node: Node) -> artifact.Model:
        """The node's model, read from the store (the reference: from its checkpoint)."""
        if node.source is None and isinstance(self.reference, ImageModel):
            return self.reference
        return artifact.load(self.make(node).folder, node.form)

    def deployed(self, node: Node) -> Node:
        """The node whose engine stands for this one's speed: a TORCH node is lowered through the plain export first."""
        if node.form is not Form.TORCH:
            return node
        from compress.passes.export import Export

        step = Step("export", Export(target="onnxruntime"), None)
        return plans.next_node(node, f"{node.name} lowered", step, self.recipe.seed, self.tokens_key)

    def engine(self, node: Node) -> Engine:
        """The engine that stands for a node, loaded."""
        lowered = self.deployed(node)
        if lowered.key not in self.engines:
            self.engines[lowered.key] = open_engine(self.make(lowered).folder, self.recipe.bench.threads)
        return self.engines[lowered.key]

    # Measuring

    def score(self, node: Node) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, V) of the held-out pictures, in the node's own form."""
        if node.key not in self.scores:
            candidate = self.model(node) if node.form is Form.TORCH else self.engine(node)
            scores = candidate.score(self.asked.inputs, self.asked.features)  # type: ignore[union-attr]
            if not np.isfinite(scores).all():
                raise InputError(f"{self.recipe.path}: {node.name}: its logits hold NaN or Inf, so it cannot be judged")
            self.scores[node.key] = scores
        return self.scores[node.key]

    def fidelity(self, node: Node, other: Node) -> Fidelity:
        """Drift of a node from another one."""
        # The seed decides which positions a masked model is asked for, and the resampling.
        key = digest("fidelity", MEASURED_BY, node.key, other.key, self.held_out.fingerprint(), self.recipe.seed)
        asked, seed = self.asked, self.recipe.seed

        def measure() -> dict[str, Any]:
            return plain(fidelity(self.score(other), self.score(node), asked.targets, seed, asked.scored))

        return parse(Fidelity, self.remembered(key, measure), "stored fidelity")

    def decoding(self, node: Node) -> Decoding | None:
        """A node's image decoder against the reference's, on the tokens of held-out pictures."""
        if node.form is Form.TORCH:
            return None
        theirs = self.deployed(self.plan.reference)
        own_file, reference_file = (self.make(each).folder / IMAGE_DECODER for each in (node, theirs))
        own_hash, reference_hash = file_hash(own_file), file_hash(reference_file)
        tokens = self.held_out.tokens[: decoding.MOST_PICTURES]
        if own_hash == reference_hash:
            return decoding.same(len(tokens), own_file.stat().st_size)

        def measure() -> dict[str, Any]:
            own, reference = (pixels_of(self.engine(each)) for each in (node, theirs))
            one = tokens[:1]
            with self.listener.work(f"decode with {node.name}") as progress:
                timings = paired(
                    {"own": lambda: own(one), "reference": lambda: reference(one)},
                    self.recipe.bench.repeats,
                    seed=self.recipe.seed,
                )
                return plain(
                    decoding.compared(
                        own,
                        reference,
                        tokens,
                        (own_file.stat().st_size, reference_file.stat().st_size),
                        timings,
                        self.recipe.seed,
                        lambda done, count: progress(done, count, {}),
                    )
                )

        bench, asked = self.recipe.bench, (self.held_out.fingerprint(), self.recipe.seed)
        key = digest(
            "decoding", MEASURED_BY, own_hash, reference_hash, asked, bench.threads, bench.repeats, plain(environment())
        )
        return parse(Decoding, self.remembered(key, measure), "stored decoding")

    def remembered(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The store's measurement of this key, or a new one."""
        return self.store.measurement(key, measure, self.listener.say)

    def cached_loop(self, node: Node) -> dict[str, float]:
        """Drift of the cached loop from one call for all tokens: bugs of the KV cache show only there."""

        def measure() -> dict[str, Any]:
            few, engine = self.asked.take(slice(STEPWISE_PICTURES)), self.engine(node)
            stepwise = engine.score_stepwise(few.inputs, few.features)
            drift = fidelity(self.score(node)[: len(few)], stepwise, few.targets, scored=few.scored)
            return {"kl": drift.kl, "max_abs_difference": drift.max_abs_difference}

        return self.remembered(
            digest("cached loop", MEASURED_BY, node.key, self.held_out.fingerprint(), self.recipe.seed), measure
        )

    def speed(self, node: Node, previous: Node | None) -> tuple[SpeedRow, ...]:
        """Rows of a node's engine, interleaved with the reference's and the previous node's.

        Eager PyTorch, where the model has that form, is timed beside the reference and the last node of each engine's
        chain. A node that is deployed
        as the one before it (a plain export) has that one's rows, and one for a runtime that is not here has none.
        """
        if node.form is not Form.TORCH and not self.engine(node).runs_as_deployed:
            return ()
        eager = self.plan.reference.form is Form.TORCH and (
            previous is None or node in [chain[-1] for chain in self.plan.engines.values()]
        )
        if previous is not None and not eager and self.deployed(node).key == self.deployed(previous).key:
            rows = self.measure(previous).speed
            return tuple(replace(row, speedup_vs_previous=None, speedup_vs_previous_ci95=None) for row in rows)
        return tuple(
            row for batch in self.recipe.bench.batch for row in self.speed_at(node, previous, batch, eager=eager)
        )

    def speed_at(self, node: Node, previous: Node | None, batch: int, *, eager: bool) -> list[SpeedRow]:
        """The rows of one batch size."""
        bench = self.recipe.bench
        engines = {"own": self.deployed(node), "reference": self.deployed(self.plan.reference)}
        if previous is not None:
            engines["previous"] = self.deployed(previous)
        distinct = {node.key: node for node in engines.values()}
        names = {role: engine.key for role, engine in engines.items()}
        labels, features = self.conditions(batch)
        length = self.reference.length

        def measure() -> dict[str, Any]:
            runners: dict[str, Any] = {
                key: (lambda engine: lambda: engine.decode_images(engine.draw_tokens(labels, features=features)))(
                    self.engine(each)
                )
                for key, each in distinct.items()
            }
            repeats = bench.repeats
            if eager:
                runners["eager"] = drawing(self.reference, labels, features)
                repeats = min(repeats, EAGER_REPEATS)
            with self.listener.work(f"time {node.name}, batch {batch}") as progress:
                timings = paired(
                    runners, repeats, seed=self.recipe.seed, report=lambda done, rounds: progress(done, rounds, {})
                )
            own = timings.row(
                names["own"],
                runtime=self.engine(engines["own"]).runtime,
                batch=batch,
                length=length,
                reference=names["reference"],
                previous=names.get("previous"),
                baseline="eager" if eager else None,
                peak_mib=self.peak_mib(engines["own"], batch),
            )
            rows = [own]
            if eager and node is self.plan.reference:
                rows.append(
                    timings.row(
                        "eager", runtime="torch eager", batch=batch, length=length, reference=names["reference"]
                    )
                )
            return {"rows": plain(rows)}

        key = digest("speed", MEASURED_BY, names, batch, bench.threads, bench.repeats, eager, plain(environment()))
        return [parse(SpeedRow, row, "stored speed") for row in self.remembered(key, measure)["rows"]]

    def conditions(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Classes, each in turn, or the features of the held-out pictures' texts."""
        labels, features = conditions(self.reference.shape, count)
        if features is not None and self.held_out.features is not None:
            features = self.held_out.features[np.arange(count) % len(self.held_out)]
        return labels, features

    def peak_mib(self, node: Node, batch: int) -> float:
        """Peak memory of a process that draws one batch."""
        try:
            return peak_mib(self.make(node).folder, batch, self.recipe.bench.threads)
        except RuntimeError as error:
            raise InputError(f"{self.recipe.path}: {node.name}: {error}") from error

    def class_accuracy(self, node: Node) -> ClassAccuracy | None:
        """How well a classifier recognises what the engine and the reference draw; only of digits."""
        if self.recipe.tokens.source != "digits":
            return None
        samples = self.recipe.bench.samples
        labels, _ = self.conditions(samples)

        def measure() -> dict[str, Any]:
            with self.listener.work(f"draw {samples} pictures with {node.name}") as progress:
                progress(0, 2, {})
                theirs = self.reference.draw_tokens(labels, seed=self.recipe.seed)
                progress(1, 2, {})
                own = self.engine(node).draw_tokens(labels, seed=self.recipe.seed)
            return plain(self.classifier.compare(theirs, own, labels))

        key = digest("accuracy", MEASURED_BY, node.key, self.plan.reference.key, samples, self.recipe.seed)
        return parse(ClassAccuracy, self.remembered(key, measure), "stored accuracy")

    @cached_property
    def classifier(self) -> DigitClassifier:
        """Trained once a run."""
        return DigitClassifier.train(self.tokens)

    def measure(self, node: Node) -> Measurement:
        """Everything that is measured of one step."""
        if node.key in self.measured:
            return replace(self.measured[node.key], name=node.name)
        previous = node.source
        entry = self.make(self.deployed(node))
        if node.form is Form.TORCH and node.key not in self.parameters:
            model = self.model(node)
            assert isinstance(model, ImageModel)
            self.parameters[node.key] = model.parameters()
        elif previous is not None:
            self.parameters.setdefault(node.key, self.parameters[previous.key])
        reference_size = self.make(self.deployed(self.plan.reference)).size_bytes
        notes = dict(self.make(node).notes) if previous is not None else {}
        if node.form is not Form.TORCH:
            notes[CACHED_LOOP] = self.cached_loop(node)
        measurement = Measurement(
            name=node.name,
            form=node.form.value,
            parameters=self.parameters[node.key],
            size_bytes=entry.size_bytes,
            size_share=entry.size_bytes / reference_size,
            fidelity=self.fidelity(node, self.plan.reference) if previous else None,
            fidelity_vs_previous=self.fidelity(node, previous) if previous else None,
            speed=self.speed(node, previous),
            decoding=self.decoding(node),
            exact=node.setting.exact if node.setting else True,
            notes=notes,
        )
        if previous is not None:
            measurement = replace(measurement, pays=pays(measurement, self.measure(previous)))
        self.measured[node.key] = measurement
        return measurement

    # Reporting

    def report(self) -> Report:
        """Make, measure and judge everything, publish the engines, and write the report."""
        reference, *nodes = self.plan.nodes
        own = self.measure(reference)
        steps, breaches = [], []
        for node in nodes:
            steps.append(self.measure(node))
            breaches += judge_step(node, steps[-1])
        with self.store.locked(digest("output", str(self.output.resolve())), self.listener.say):
            try:
                return self.finish(own, steps, breaches)
            except OSError as error:
                raise disk_error(error, self.output) from error

    def finish(self, own: Measurement, steps: list[Measurement], breaches: list[Breach]) -> Report:
        """Publish the engines and write the report; one run at a time for one folder."""
        engines = [self.publish(name, chain) for name, chain in self.plan.engines.items()]
        if self.recipe.gate is not None:
            breaches += [
                breach
                for engine in engines
                if not engine.not_built
                for breach in judge(self.recipe.gate, engine, engine.name)
            ]
        self.store.note_user(self.recipe.path, [*self.entries])
        report = Report(
            verdict=Verdict.of(breaches),
            environment=environment(),
            recipe=self.recipe.described(),
            reference=own,
            steps=tuple(steps),
            engines=tuple(engines),
            pictures=self.pictures,
        )
        reports.write(report, self.output)
        (self.output / "report.md").write_text(markdown(report), encoding="utf-8")
        return report

    def publish(self, name: str, chain: tuple[Node, ...]) -> EngineMeasurement:
        """Copy the chain's last artifact into the run's folder as an engine, with its provenance and measurements."""
        last = chain[-1]
        measurement = self.measure(last)
        folder = self.output / "engines" / name
        not_built = str(measurement.notes.get("not_built", ""))
        accuracy = None if not_built else self.class_accuracy(last)
        engine = EngineMeasurement(
            **{**vars(measurement), "name": name},
            folder=f"engines/{name}",
            target=self.engine(last).manifest.target,
            not_built=not_built,
        )
        engine = replace(
            engine,
            class_accuracy=accuracy,
            low_precision_share=None if not_built else self.low_precision_share(last),
            single_file=self.single_file(last),
        )
        copy_engine(self.make(last).folder, folder, engine, self.provenance(chain))
        if not not_built:
            self.save_pictures(last, self.output / f"pictures-{name}.png")
            self.pictures[f"reference and {name}, same classes and seeds"] = f"pictures-{name}.png"
        return engine

    def low_precision_share(self, node: Node) -> float:
        """Share of the matrix products' time that ran in low precision, from the runtime's own profile."""
        key = digest("low precision", MEASURED_BY, node.key, plain(environment()))
        return self.remembered(
            key,
            lambda: {"value": low_precision_share(self.engine(node).profile())},
        )["value"]

    def single_file(self, node: Node) -> SingleFile | None:
        """What the whole generation in one file costs, where the engine has such a file."""
        engine, bench, seed = self.engine(node), self.recipe.bench, self.recipe.seed
        if "generate" not in engine.manifest.files:
            return None
        labels, features = self.conditions(min(bench.batch))

        def measure() -> dict[str, Any]:
            with self.listener.work(f"draw with {node.name} in one file") as progress:
                progress(0, 1, {})
                return plain(single_file(engine, labels, features, bench.repeats, seed))

        key = digest(
            "single file", MEASURED_BY, node.key, len(labels), bench.threads, bench.repeats, plain(environment())
        )
        return parse(SingleFile, self.remembered(key, measure), "stored single file")

    def provenance(self, chain: tuple[Node, ...]) -> dict[str, Any]:
        """Everything that made an engine, step by step."""
        nodes = [self.plan.reference, *self.plan.trunk, *chain]
        return {"recipe": self.recipe.described(), "steps": [{"key": node.key, **node.made_by} for node in nodes]}

    def save_pictures(self, node: Node, path: Path) -> None:
        """Pictures of the reference and the engine side by side, drawn for the same classes with the same seeds."""
        labels, features = self.conditions(PAIRED_PICTURES if self.reference.shape.classes else PAIRED_ROW)
        theirs = self.reference.generate(labels, self.recipe.seed, features=features)
        own = self.engine(node)
        tokens = own.draw_tokens(labels, self.recipe.seed, features=features)
        save_pair(theirs, own.decode_images(tokens), labels, path)


def pixels_of(engine: Engine) -> decoding.Decode:
    """Pictures (N, H, W, C) of tokens (N, T) by an engine's decoder, before they are clamped and rounded."""
    return lambda tokens: engine.image_decoder.run(["pixels"], {"tokens": tokens})[0]


def judge_step(node: Node, measurement: Measurement) -> list[Breach]:
    """Breaches of the step's own gate, of an exact pass's promise, and of the KV cache's."""
    breaches = judge(node.gate, measurement, node.name) if node.gate else []
    nearer, cached = measurement.fidelity_vs_previous, measurement.notes.get(CACHED_LOOP)
    promises = []
    if measurement.exact and nearer:
        promises.append(("exact", nearer.max_abs_difference, nearer.kl, "logits moved from the step before"))
    if cached:
        moved = "logits of the cached loop differ from those of one call"
        promises.append((CACHED_LOOP, cached["max_abs_difference"], cached["kl"], moved))
    for name, difference, kl, moved in promises:
        if difference > EXACT_LOGIT and kl > EXACT_KL:
            text = f"{node.name}: {moved} by up to {difference:.3g} (KL {kl:.2g} nats); they shall not: this is a bug"
            breaches.append(Breach(node.name, name, difference, EXACT_LOGIT, text))
    return breaches


def copy_engine(source: Path, folder: Path, engine: EngineMeasurement, provenance: dict[str, Any]) -> None:
    """Copy an engine folder and write where it comes from and what was measured into its manifest."""
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(ENTRY))
    path = draft / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"provenance": provenance, "measured": plain(engine)}
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def closing_lines(report: Report, folder: Path) -> list[str]:
    """Where everything lies, and what was breached."""
    lines = [f"breach: {breach.text}" for breach in report.verdict.breaches]
    for engine in report.engines:
        note = f"  (not built: {engine.not_built})" if engine.not_built else ""
        lines.append(f"engine {engine.name}: {folder / engine.folder}{note}")
    lines += [f"pictures: {folder / file}  ({what})" for what, file in report.pictures.items()]
    return [*lines, f"report: {folder / 'report.md'} and {reports.FILE}"]
