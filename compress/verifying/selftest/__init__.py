"""The verifier tried on faults that are known to be there, and on models that are known to be equal.

A verifier that never found anything may be blind. So every fault of `faults` is planted into a sound model, and must be
noticed by what `compress verify` measures and be localised to its layer; and the reference's own fp32 engine, which
differs from it by rounding alone, must pass with 100 seeds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.settings import parse, setting
from compress.data.tokens import open_source
from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.drift.coupled import Coupled
from compress.measure.drift.evidence import evidence
from compress.measure.drift.fidelity import Fidelity, columns_of
from compress.measure.drift.layers import relative_error
from compress.measure.drift.sampled import Sampled
from compress.measure.statistics import percentile_interval, resampled_means
from compress.measure.subject import Given, Side, Subject
from compress.models.candidate import open_model
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, examples, examples_of
from compress.passes import Context, find
from compress.verifying.bisect import bisect
from compress.verifying.places import NOISE
from compress.verifying.selftest.faults import FAULTS, Base, Fault, built
from export.runtime.drawing import score_stepwise
from export.runtime.engine import Engine

if TYPE_CHECKING:
    from compress.models.candidate import Candidate

SHIPPED = "digits"
PICTURES = 8
DRAWN = 1
SEEDS = 100
STATED_RATE = 0.01  # of false alarms
# Rounding alone gives 3e-13 nats and 1e-6; the smallest planted fault gives 1e-4 and 1e-2.
EXACT_KL = 1e-6
EXACT_VARIATION = 1e-4


@dataclass(frozen=True)
class Caught:
    """What became of one planted fault."""

    fault: str = setting(doc="what was planted")
    noticed: tuple[str, ...] = setting(doc="the checks that rang")
    planted_in: str = setting(doc="the layer it was planted in; empty if in none")
    localised: str = setting(doc="the layer that was named")

    @property
    def caught(self) -> bool:
        """Whether it was noticed, and named where it is."""
        return bool(self.noticed) and self.localised == self.planted_in


@dataclass(frozen=True)
class SelfTest:
    """The whole trial."""

    faults: tuple[Caught, ...] = setting(doc="every planted fault")
    false_alarms: int = setting(doc="trials with an equal model in which a check rang", low=0)
    trials: int = setting(doc="trials with an equal model", low=1)
    intervals_missed: int = setting(
        doc="trials in which the 95 % interval of the difference between two random halves of the same scores left out "
        "0; 5 of 100 are expected",
        low=0,
    )

    @property
    def passed(self) -> bool:
        """Whether all faults were caught, at the stated rate of false alarms."""
        return all(each.caught for each in self.faults) and self.false_alarms <= STATED_RATE * self.trials

    def words(self) -> str:
        """The result in one line."""
        caught = sum(each.caught for each in self.faults)
        return f"caught {caught} of {len(self.faults)}; false alarms {self.false_alarms} of {self.trials}"


def alarms(reference: Candidate, candidate: Candidate, given: Examples, seed: int = 0) -> list[str]:
    """The checks that say that a candidate is not the reference up to rounding, by what `verify` measures."""
    shared = Given(reference.shape, reference.picture, given, seed, samples=2 * DRAWN)
    subject = Subject(Side("candidate", shared, candidate), Side("reference", shared, reference))
    if not evidence(subject.reference.scores, given.scored).sound:
        return ["no evidence"]
    found = []
    if Fidelity.run(subject).kl > EXACT_KL:
        found.append("one pass")
    if CachedLoop.run(subject).kl > EXACT_KL:
        found.append("cached loop")
    if Sampled.run(subject).total_variation > EXACT_VARIATION:
        found.append("the sampling distribution")
    if Coupled.run(subject).edit_rate > 0:
        found.append("free running")
    return found


def localised(reference: ImageModel, candidate: ImageModel, given: Examples) -> str:
    """The first layer whose stream departs, or whose cache does behind the loop; empty if none does."""
    found = bisect(reference, candidate, ("reference", "candidate"), given).departs
    if found or reference.shape.drawing.masks:
        return found
    caches = []
    for model in (reference, candidate):
        runner = model.runner()
        score_stepwise(runner, given.inputs, model.shape, given.features)
        caches.append(runner.past)
    for layer, (theirs, own) in enumerate(zip(*caches, strict=True)):
        if max(relative_error(*(part.numpy() for part in pair)) for pair in zip(theirs, own, strict=True)) > NOISE:
            return f"blocks.{layer}"
    return ""


def run(
    seeds: int = SEEDS, report: Callable[[int, int], None] = lambda done, count: None, base: str = SHIPPED
) -> SelfTest:
    """Plant every fault, then try an equal model with so many seeds."""
    shipped = open_model(base)
    assert isinstance(shipped, ImageModel)
    pictures = open_source("digits", "self-test").part("held_out", None)
    whole = examples(shipped.shape, pictures)
    count = len(FAULTS) + seeds
    caught = []
    for done, fault in enumerate(FAULTS):
        report(done, count)
        caught.append(trial(fault, shipped, whole))
    rung = 0
    with tempfile.TemporaryDirectory() as room:
        engine = equal_engine(shipped, Path(room))
        for seed in range(seeds):
            report(len(FAULTS) + seed, count)
            chosen = np.random.Generator(np.random.Philox(seed)).permutation(len(whole))[:PICTURES]
            rung += bool(alarms(shipped, engine, whole.take(chosen), seed))
    return SelfTest(tuple(caught), rung, seeds, intervals_missed(shipped, whole, seeds))


def trial(fault: Fault, shipped: ImageModel, whole: Examples) -> Caught:
    """Plant one fault, and see."""
    sound = shipped if fault.base == "shipped" else built(fault.base)
    given = whole.take(slice(PICTURES)) if fault.base == "shipped" else questions_of(sound)
    faulty = fault.plant(sound)
    return Caught(
        fault.name,
        tuple(alarms(sound, faulty, given)),
        fault.where(sound),
        "" if fault.base == "untrained" else localised(sound, faulty, given),
    )


def questions_of(model: ImageModel) -> Examples:
    """Random pictures for a model that was built here."""
    generator = np.random.Generator(np.random.Philox(0))
    shape = model.shape
    tokens = generator.integers(0, shape.vocabulary, (PICTURES, shape.length))
    return examples_of(shape, tokens, np.arange(PICTURES) % shape.classes, 0)


def equal_engine(model: ImageModel, room: Path) -> Engine:
    """The model's own fp32 engine, fused."""
    current: object = model
    for name, settings in (("export", {"target": "onnxruntime"}), ("fuse", {}), ("engine", {})):
        made = parse(find(name, "self-test"), settings, f"self-test.{name}")
        current = made.run(current, Context(model, open_source("digits", "self-test"), 2, 0, room)).model
    current.save(room)  # type: ignore[attr-defined]
    return Engine.load(room, threads=2)


def intervals_missed(model: ImageModel, whole: Examples, seeds: int) -> int:
    """How often the interval of the difference between two halves of the same NLLs leaves out 0."""
    scores = model.score(whole.inputs, whole.features)
    nll = columns_of(scores, scores, whole.targets, whole.scored).per_picture[:, 0]
    missed = 0
    for seed in range(seeds):
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(nll))
        first, second = nll[order[: len(nll) // 2]], nll[order[len(nll) // 2 :]]
        draws = [resampled_means(half[:, None], 2 * seed + place)[:, 0] for place, half in enumerate((first, second))]
        found = percentile_interval(first.mean() - second.mean(), draws[0] - draws[1], len(first))
        missed += not found.low <= 0 <= found.high
    return missed


__all__ = ["FAULTS", "Base", "Caught", "SelfTest", "alarms", "localised", "run"]
