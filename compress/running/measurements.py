"""Measure each step of a run as deployed: drift, speed, memory, size; what was measured once is stored."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from compress.core.listener import step
from compress.core.settings import InputError, digest, parse, plain
from compress.core.store import file_hash
from compress.core.user_files import user_path
from compress.measure import Measurement
from compress.measure.pictures import decoding
from compress.measure.pictures.classify import ClassAccuracy, DigitClassifier
from compress.measure.pictures.decoding import Decoding
from compress.measure.pictures.distribution import Distribution, distances
from compress.measure.pictures.features import Extractor, of_classifier, of_inception, of_tokenizer
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.environment import environment
from compress.measure.speed.memory import peak_mib
from compress.measure.speed.pinning import pinned
from compress.measure.speed.single_file import SingleFile, single_file
from compress.measure.speed.timing import REST_S, SpeedRow, paired
from compress.models.artifact import Form
from compress.models.candidate import pixels_of
from compress.models.image_model import ImageModel
from compress.recipe.plan import Node
from compress.report.data.pays import pays
from compress.running.artifacts import Making
from compress.running.drift import MEASURED_BY, Drifting
from export.runtime.engine import low_precision_share
from export.runtime.manifest import IMAGE_DECODER

CACHED_LOOP = "cached_loop"  # what the notes call the drift of the cached loop
EAGER_REPEATS = 8


class Measuring:
    """What was measured of a run so far."""

    def __init__(self, making: Making) -> None:
        self.making, self.recipe, self.store, self.listener = making, making.recipe, making.store, making.listener
        self.tokens, self.reference, self.plan = making.tokens, making.reference, making.plan
        self.drift = Drifting(making)
        self.parameters = {self.plan.reference.key: self.reference.parameters()}
        self.measured: dict[str, Measurement] = {}

    def decoding(self, node: Node) -> Decoding | None:
        """A node's image decoder against the reference's, on the tokens of held-out pictures."""
        if node.form is Form.TORCH:
            return None
        theirs = self.making.deployed(self.plan.reference)
        own_file, reference_file = (self.making.make(each).folder / IMAGE_DECODER for each in (node, theirs))
        own_hash, reference_hash = file_hash(own_file), file_hash(reference_file)
        tokens = self.drift.held_out.tokens[: decoding.MOST_PICTURES]
        if own_hash == reference_hash:
            return decoding.same(len(tokens), own_file.stat().st_size)

        def measure() -> dict[str, Any]:
            own, reference = (pixels_of(self.making.engine(each)) for each in (node, theirs))
            assert own is not None
            assert reference is not None
            one = tokens[:1]
            with pinned(self.recipe.bench.threads), self.listener.work(f"decode with {node.name}") as progress:
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

        bench, asked = self.recipe.bench, (self.drift.held_out.fingerprint(), self.recipe.seed)
        key = digest(
            "decoding", MEASURED_BY, own_hash, reference_hash, asked, bench.threads, bench.repeats, plain(environment())
        )
        return parse(Decoding, self.drift.remembered(key, measure), "stored decoding")

    def speed(self, node: Node, previous: Node | None) -> tuple[SpeedRow, ...]:
        """Rows of a node's engine, interleaved with the reference's and the previous node's.

        Eager PyTorch, where the model has that form, is timed beside the reference and the last node of each engine's
        chain. A node that is deployed
        as the one before it (a plain export) has that one's rows, and one for a runtime that is not here has none.
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
        labels, features = self.drift.conditions(batch)
        length = self.reference.length

        def measure() -> dict[str, Any]:
            runners = {key: Drawing(self.making.engine(each), labels, features) for key, each in distinct.items()}
            repeats = bench.repeats
            if eager:
                runners["eager"] = Drawing(self.reference, labels, features)
                repeats = min(repeats, EAGER_REPEATS)
            with pinned(bench.threads), self.listener.work(f"time {node.name}, batch {batch}") as progress:
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
            return {"rows": plain(rows)}

        key = digest("speed", MEASURED_BY, names, batch, bench.threads, bench.repeats, eager, plain(environment()))
        return [parse(SpeedRow, row, "stored speed") for row in self.drift.remembered(key, measure)["rows"]]

    def peak_mib(self, node: Node, batch: int) -> float:
        """Peak memory of a process that draws one batch."""
        try:
            return peak_mib(self.making.make(node).folder, batch, self.recipe.bench.threads)
        except RuntimeError as error:
            raise InputError(f"{self.recipe.path}: {node.name}: {error}") from error

    def class_accuracy(self, node: Node) -> ClassAccuracy | None:
        """How well a classifier recognises what the engine and the reference draw; only of digits."""
        if self.recipe.tokens.source != "digits":
            return None
        labels, _ = self.drift.conditions(self.drift.samples)

        def measure() -> dict[str, Any]:
            return plain(self.classifier.compare(self.drift.drawn(self.plan.reference), self.drift.drawn(node), labels))

        key = digest("accuracy", MEASURED_BY, node.key, self.plan.reference.key, self.drift.samples, self.recipe.seed)
        return parse(ClassAccuracy, self.drift.remembered(key, measure), "stored accuracy")

    def distribution(self, node: Node) -> Distribution | None:
        """What an engine draws as a set against what the reference draws, beside the reference against itself."""
        extractor = self.extractor
        if extractor is None:
            return None
        seed, shape, drift, origin = self.recipe.seed, self.reference.shape, self.drift, self.plan.reference

        def measure() -> dict[str, Any]:
            theirs, own, again = drift.drawn(origin), drift.drawn(node, 1), drift.drawn(origin, 1)
            held = extractor.features(theirs)
            grid = None if shape.scales else shape.grid
            found = [distances(held, extractor.features(tokens), theirs, tokens, grid, seed) for tokens in (own, again)]
            return plain(Distribution(extractor.name, held.shape[1], len(theirs), *found))

        weights = self.recipe.bench.inception
        by = (extractor.name, weights and file_hash(user_path(weights)))
        key = digest("distribution", MEASURED_BY, by, node.key, origin.key, drift.samples, seed)
        return parse(Distribution, drift.remembered(key, measure), "stored distribution")

    @cached_property
    def extractor(self) -> Extractor | None:
        """InceptionV3's features where its weights are given; else those on hand: the digit classifier's, or the
        tokenizer's image encoder's.
        """
        if self.recipe.bench.inception:
            return of_inception(user_path(self.recipe.bench.inception), self.reference)
        if self.recipe.tokens.source == "digits":
            return of_classifier(self.classifier)
        return of_tokenizer(self.reference) if isinstance(self.reference, ImageModel) else None

    @cached_property
    def classifier(self) -> DigitClassifier:
        """Trained once a run."""
        return DigitClassifier.train(self.tokens)

    def measure(self, node: Node) -> Measurement:
        """Everything that is measured of one step."""
        if node.key not in self.measured:
            with step(f"measure {node.name}"):
                self.measured[node.key] = self.of(node)
        return replace(self.measured[node.key], name=node.name)

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
        if node.form is not Form.TORCH:
            notes[CACHED_LOOP] = self.drift.cached_loop(node)
        measurement = Measurement(
            name=node.name,
            form=node.form.value,
            parameters=self.parameters[node.key],
            size_bytes=entry.size_bytes,
            size_share=entry.size_bytes / reference_size,
            fidelity=self.drift.fidelity(node, self.plan.reference) if previous else None,
            fidelity_vs_previous=self.drift.fidelity(node, previous) if previous else None,
            fidelity_drawn=self.drift.fidelity_drawn(node) if previous else None,
            sampled=self.drift.sampled(node) if previous else None,
            layers=self.drift.layers(node) if previous else (),
            speed=self.speed(node, previous),
            decoding=self.decoding(node),
            exact=node.setting.exact if node.setting else True,
            notes=notes,
            artifact=node.key,
        )
        if previous is not None:
            measurement = replace(measurement, pays=pays(measurement, self.measure(previous)))
        return measurement

    def low_precision_share(self, node: Node) -> float:
        """Share of the matrix products' time that ran in low precision, from the runtime's own profile."""
        key = digest("low precision", MEASURED_BY, node.key, plain(environment()))
        return self.drift.remembered(
            key,
            lambda: {"value": low_precision_share(self.making.engine(node).profile())},
        )["value"]

    def single_file(self, node: Node) -> SingleFile | None:
        """What the whole generation in one file costs, where the engine has such a file."""
        engine, bench, seed = self.making.engine(node), self.recipe.bench, self.recipe.seed
        if "generate" not in engine.manifest.files:
            return None
        labels, features = self.drift.conditions(min(bench.batch))

        def measure() -> dict[str, Any]:
            with self.listener.work(f"draw with {node.name} in one file") as progress:
                progress(0, 1, {})
                return plain(single_file(engine, labels, features, bench.repeats, seed))

        key = digest(
            "single file", MEASURED_BY, node.key, len(labels), bench.threads, bench.repeats, plain(environment())
        )
        return parse(SingleFile, self.drift.remembered(key, measure), "stored single file")
