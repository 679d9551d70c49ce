"""Drive a recipe from its checkpoint to judged engines, and write the run's folder."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from calibration.tokens import TokenSet
from compress import report as reports
from compress.core import durable
from compress.core.listener import Listener, step
from compress.core.settings import digest, plain
from compress.core.store import ENTRY, Store, errors_said, prepare_output
from compress.data.tokens import check_fits
from compress.measure import EngineMeasurement, Measurement
from compress.measure.pictures.images import Sheet, save_pair
from compress.measure.speed.environment import environment
from compress.models import families
from compress.models.adopted import AdoptedModel, opened
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.passes import Notes
from compress.recipe import plan as plans
from compress.recipe.plan import Node, Plan
from compress.recipe.preflight import check_requirements, rehearse
from compress.recipe.recipe import Recipe
from compress.recipe.verdict import Breach, Verdict, judge, no_evidence, promised
from compress.report import Report
from compress.report.data.outcomes import remember
from compress.report.data.pays import engine_pays
from compress.report.page import html
from compress.report.text.markdown import markdown
from compress.running.artifacts import Making
from compress.running.chains import Chains, check_place
from compress.running.measurements import Measuring
from compress.running.taught import check_processes
from compress.workers.place import Place
from export.graph.card import CARD, card
from export.runtime.errors import PlanWarning
from export.runtime.manifest import Manifest, file_hash
from export.runtime.processor import ProcessorWarning, products_saturate
from export.runtime.sheet import save_grid

# An exact pass may move logits by rounding only: fp32 sums in another order stay below this; what quantizes activations
# may round a tie the other way, so for quantized models the distribution is held to, not the logit; and to no less than
# rounding costs, as differences of the last bit grow to that from layer to layer.
EXACT_LOGIT = 1e-3
EXACT_KL = 1e-4
OF_SPEED = ("speedup", "latency_ms")
PAIRED_PICTURES = 20
PAIRED_ROW = 6  # of a model without classes
SHEET_COLUMNS = 5  # narrow enough for a telephone


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


def run(
    recipe: Recipe,
    store: Store,
    output: Path,
    listener: Listener,
    preflight: bool = True,
    processes: int = 1,
    place: Place | None = None,
) -> Report:
    """Drive a recipe from its checkpoint to judged engines in `output`; passes that train do so in `processes`.

    The workers of a `place` make the engines side by side.

    Raises:
        InputError: an input is wrong or a pass cannot do what it is asked; what was finished is in the store.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProcessorWarning)  # said once, of the whole recipe
            warnings.simplefilter("ignore", PlanWarning)  # the report says of each engine that it was not run
            return run_in(recipe, store, output, listener, preflight, processes, place)
    finally:
        store.release()


def run_in(
    recipe: Recipe,
    store: Store,
    output: Path,
    listener: Listener,
    preflight: bool,
    processes: int,
    place: Place | None,
) -> Report:
    """Drive a recipe; the store holds what was found and made."""
    if note := plans.processor_note(recipe):
        listener.say(note)
    torch.set_num_threads(recipe.bench.threads)  # sums, and so weights, depend on their number in the last bit
    tokens = plans.load_tokens(recipe)
    reference: ImageModel | AdoptedModel
    if recipe.form is Form.TORCH:
        reference = load_reference(recipe, tokens)
        plan = plans.make_plan(recipe, tokens)
        check_requirements(recipe, plan, reference)
        check_processes(recipe, plan, processes, listener.say)
        store.prepare(node.key for node in plan.nodes if node.source)
        place = check_place(place, recipe, store, listener.say)
        prepare_output(output)
        if preflight and not all(store.contains(node.key) for node in plan.nodes if node.source):
            listener.say(rehearse(recipe, plan, reference, tokens, listener).words())
    else:  # a graph has no two-layer copy to rehearse with, and no pass on graphs takes long
        plan = plans.make_plan(recipe, tokens)
        store.prepare(node.key for node in plan.nodes)
        place = check_place(place, recipe, store, listener.say)
        prepare_output(output)
        reference = adopt_reference(recipe, tokens, plan, store, listener)
        check_requirements(recipe, plan, reference.model)
        check_processes(recipe, plan, processes, listener.say)
    return Run(recipe, store, output, listener, tokens, reference, plan, processes, place).report()


class Run:
    """One run of a recipe: made, measured, judged and published."""

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        output: Path,
        listener: Listener,
        tokens: TokenSet,
        reference: ImageModel | AdoptedModel,
        plan: Plan,
        processes: int = 1,
        place: Place | None = None,
    ) -> None:
        self.place = place
        self.recipe, self.store, self.output, self.listener = recipe, store, output, listener
        self.reference, self.plan = reference, plan
        self.making = Making(recipe, store, listener, tokens, reference, plan, processes)
        self.measuring = Measuring(self.making)
        self.pictures: dict[str, str] = {}
        self.sheets: list[Sheet] = []

    def report(self) -> Report:
        """Make, measure and judge everything, publish the engines, and write the report."""
        reference, *nodes = self.plan.nodes
        self.store.begin(self.recipe.path, self.making.keys())
        own = self.measuring.measure(reference)
        if self.place is not None:
            Chains(self.measuring, self.place).make()  # what follows finds all but times in the store
        steps, breaches = [], []
        for node in nodes:
            steps.append(self.measuring.measure(node))
            breaches += judge_step(node, steps[-1], self.measuring.rounding_kl(node))
        folder = digest("output", str(self.output.resolve()))
        with step("report"), self.store.locked(folder, self.listener.say), errors_said(self.output):
            return self.finish(own, steps, breaches)

    def finish(self, own: Measurement, steps: list[Measurement], breaches: list[Breach]) -> Report:
        """Publish the engines and write the report; one run at a time for one folder."""
        engines = [self.publish(name, chain) for name, chain in self.plan.engines.items()]
        for engine in engines:
            if not engine.not_built:
                breaches += promised(engine, engine.name, {"engines"})
                breaches += self.explained(judge(self.recipe.gate, engine, engine.name)) if self.recipe.gate else []
        found = self.measuring.evidence()
        gates = [self.recipe.gate, *(node.gate for node in self.plan.nodes)]
        if not found.sound and any(gate is not None and gate.judges_drift for gate in gates):
            breaches.append(no_evidence(found, "reference"))
        self.store.note_user(self.recipe.path, [*self.making.entries])
        report = Report(
            verdict=Verdict.of(breaches),
            environment=environment(),
            recipe=self.recipe.described(),
            reference=own,
            steps=tuple(steps),
            engines=tuple(engines),
            floor=self.measuring.floor(),
            evidence=found,
            pictures=self.pictures,
            sheets=tuple(self.sheets),
            command=self.command,
        )
        remember(report, self.output)
        reports.write(report, self.output)
        durable.write_text(self.output / "report.md", markdown(report))
        html.write(report, self.output)
        return report

    @property
    def command(self) -> str:
        """What makes this run again."""
        instead = "".join(f" --{name} {quote(given)}" for name, given in self.recipe.instead.items())
        return f"compress run {quote(str(self.recipe.path))}{instead} -o {quote(str(self.output))}"

    def explained(self, breaches: list[Breach]) -> list[Breach]:
        """Breaches of speed say so where this processor runs the recipe's engines slower than those they are for."""
        note = plans.processor_note(self.recipe) if products_saturate() else None
        return [
            replace(each, text=f"{each.text} ({note})") if note and each.measurement in OF_SPEED else each
            for each in breaches
        ]

    def publish(self, name: str, chain: tuple[Node, ...]) -> EngineMeasurement:
        """Copy the chain's last artifact into the run's folder as an engine, with its provenance and measurements."""
        last = chain[-1]
        measurement = self.measuring.measure(last)
        folder = self.output / "engines" / name
        not_built = Notes.read(measurement.notes).not_built or ""
        opened = self.making.engine(last)
        manifest = opened.manifest
        engine = EngineMeasurement(
            **{**vars(measurement), "name": name, "pays": engine_pays(measurement)},
            folder=f"engines/{name}",
            target=manifest.target,
            sha256={file: file_hash(self.making.make(last).folder / file) for file in manifest.files.values()},
            not_built=not_built,
            not_run="" if not_built or opened.runs_as_deployed else built_for(manifest, measurement.notes),
        )
        if not not_built:
            engine = engine.with_results(self.measuring.results(last, {"engines"}))
        copy_engine(self.making.make(last).folder, folder, engine, self.provenance(chain))
        if not not_built:
            self.save_pictures(last, name)
        self.measuring.forget(last)
        return engine

    def provenance(self, chain: tuple[Node, ...]) -> dict[str, Any]:
        """Everything that made an engine, step by step."""
        nodes = [self.plan.reference, *self.plan.trunk, *chain]
        return {"recipe": self.recipe.described(), "steps": [{"key": node.key, **node.made_by} for node in nodes]}

    def save_pictures(self, node: Node, name: str) -> None:
        """Pictures of the reference and the engine of the same classes and seeds: a pair, and sheets for a slider."""
        shape = self.reference.shape
        labels, features = self.measuring.given.conditions(PAIRED_PICTURES if shape.classes else PAIRED_ROW)
        theirs = self.reference.generate(labels, self.recipe.seed, features=features)
        own = self.making.engine(node)
        drawn = own.decode_images(own.draw_tokens(labels, self.recipe.seed, features=features))
        pair, files = f"pictures-{name}.png", (f"pictures-{name}-reference.png", f"pictures-{name}-engine.png")
        save_pair(theirs, drawn, labels, self.output / pair)
        for images, file in zip((theirs, drawn), files, strict=True):
            save_grid(images, self.output / file, SHEET_COLUMNS)
        self.pictures[f"reference and {name}, same classes and seeds"] = pair
        classes = tuple(labels.tolist()) if shape.classes and shape.text is None else ()
        self.sheets.append(Sheet(name, *files, len(labels), SHEET_COLUMNS, self.recipe.seed, classes))


def built_for(manifest: Manifest, notes: Mapping[str, Any]) -> str:
    """What was built of an engine that this machine cannot run, and in how many seconds."""
    build = manifest.build
    if build is None:
        return f"for {manifest.target}, which is not here"
    seconds = sum(plan["seconds"] for plan in (notes.get("plans") or {}).values())
    return f"by {build.made_by} for {build.made_for} in {seconds:.1f} s; ONNX Runtime ran the same graphs"


def judge_step(node: Node, measurement: Measurement, rounding_kl: float = 0.0) -> list[Breach]:
    """Breaches of the step's own gate, of the promises of what was measured, and of an exact pass's.

    `rounding_kl` is what rounding the inputs of products cost, nats per token: rounded from sums in another order, the
    step may be as far from the one before.
    """
    breaches = [*(judge(node.gate, measurement, node.name) if node.gate else []), *promised(measurement, node.name)]
    nearer = measurement.fidelity_vs_previous
    most = max(EXACT_KL, rounding_kl)
    if measurement.exact and nearer and nearer.max_abs_difference > EXACT_LOGIT and nearer.kl > most:
        text = (
            f"{node.name}: logits moved from the step before by up to {nearer.max_abs_difference:.3g} (KL "
            f"{nearer.kl:.2g} nats), but must be equal up to rounding; `compress bisect` names the layer and the "
            f"operator where they part"
        )
        breaches.append(Breach(node.name, "exact", nearer.max_abs_difference, EXACT_LOGIT, text))
    return breaches


def copy_engine(source: Path, folder: Path, engine: EngineMeasurement, provenance: dict[str, Any]) -> None:
    """Copy an engine folder and write where it comes from and what was measured into its manifest and card."""
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(ENTRY))
    path = draft / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest |= {"provenance": provenance, "measured": plain(engine)}
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    (draft / CARD).write_text(card(Manifest.said(draft)[0]), encoding="utf-8")
    durable.sync_tree(draft)
    shutil.rmtree(folder, ignore_errors=True)
    durable.move(draft, folder)


def closing_lines(report: Report, folder: Path) -> list[str]:
    """Where everything lies, and what was breached."""
    lines = [f"breach: {breach.text}" for breach in report.verdict.breaches]
    for engine in report.engines:
        note = f"  ({said})" if (said := engine.built) else ""
        lines.append(f"engine {engine.name}: {folder / engine.folder}{note}")
    lines += [f"pictures: {folder / file}  ({what})" for what, file in report.pictures.items()]
    return [*lines, f"report: {folder / html.PAGE}, report.md and {reports.FILE}"]
