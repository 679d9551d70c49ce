"""Compare two candidates for drift, or several for speed: what `compress verify` and `compress bench` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.core.listener import Listener, Silent
from compress.core.settings import InputError, setting
from compress.data.tokens import check_features, open_source
from compress.measure import Measure, Measurement, measures
from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.drift.evidence import Evidence, evidence
from compress.measure.drift.fidelity import Fidelity, difference
from compress.measure.drift.sampled import AT_ONCE as UNCONDITIONAL_AT_ONCE
from compress.measure.drift.sampled import Sampled, looked_at
from compress.measure.pictures.decoding import Decoding
from compress.measure.pictures.distribution import Distribution
from compress.measure.quantity import quantity
from compress.measure.slices import Slice, slices
from compress.measure.subject import AT_ONCE, Given, Side, Subject, beside
from compress.models.candidate import Candidate, name_of, open_candidate
from compress.models.transformer.examples import Examples, examples, examples_of
from compress.recipe.gates import Gate, keys
from compress.recipe.verdict import Verdict, judge, no_evidence, promised
from compress.verifying.spread import Spread
from compress.workers.place import Place
from export.runtime.shape import Shape
from export.runtime.throughput import free_bytes, gigabytes


@dataclass(frozen=True)
class Difference:
    """A candidate against another one, both against the reference: their paired difference."""

    other: str = setting(doc="the other candidate")
    kl: float = quantity(
        doc="KL of the candidate less that of the other, nats per token; negative is closer", unit="nats"
    )
    kl_ci95: tuple[float, float] = setting(doc="its interval over pictures")
    nll: float = quantity(doc="the same of the NLL, nats per token", unit="nats")
    nll_ci95: tuple[float, float] = setting(doc="its interval")


@dataclass(frozen=True)
class Comparison:
    """A candidate's drift from a reference, and the verdict of the gates."""

    reference: str = setting(doc="what the candidate was compared with")
    candidate: str = setting(doc="what was judged")
    tokens: str = setting(doc="the pictures that were scored: a token source, or those that the reference drew")
    fidelity: Fidelity = setting(doc="the drift")
    sampled: Sampled = setting(doc="the drift of the sampling distribution, after guidance, temperature and cuts")
    cached_loop: CachedLoop = setting(doc="the candidate's cached loop against its own single call, of a few pictures")
    evidence: Evidence = setting(doc="whether the reference's predictions can show drift at all")
    decoding: Decoding | None = setting(doc="the image decoders, where each has its own")
    difference: Difference | None = setting(doc="against another candidate, where one was given")
    verdict: Verdict = setting(doc="whether every gate was kept")
    measures: dict[str, Any] = field(
        default_factory=dict, metadata={"doc": "what every further measure found, by its name"}
    )

    @property
    def results(self) -> dict[str, Measure]:
        """What every measure found, by its name."""
        own = {name: getattr(self, name) for name in IN_FIELDS if getattr(self, name) is not None}
        return own | self.measures


IN_FIELDS = ("fidelity", "sampled", "cached_loop", "decoding")  # measures that a comparison has fields for
DRAWN = "drawn"  # as a token source: the reference draws the pictures
DRAWN_PICTURES = 64
COUPLED_PICTURES = 32  # that both draw with the same noise; PyTorch takes its time
QUICK_PICTURES, QUICK_COUPLED = 32, 4  # of `--quick`
REPEATS = 8  # rounds of a paired timing
FLOAT_BYTES = 4


def compare(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    gate: Gate | None,
    source: str,
    held_out: int | None,
    threads: int,
    than: str | Path | Candidate | None = None,
    seed: int = 0,
    samples: int | None = None,
    place: Place | None = None,
    listener: Listener | None = None,
) -> Comparison:
    """Score both on the held-out pictures of a token source, or on pictures that the reference draws; judge the drift.

    `samples` are the pictures that both draw with the same noise, 32 at most if it is not given. Workers of a `place`
    draw and score; the result is the same.

    Raises:
        InputError: one of them cannot be opened, the tokens do not fit, a gate is not measured here, or workers failed.
    """
    check_gate(gate)
    spread = None if place is None else spread_of(place, reference, candidate, than, threads, listener or Silent())
    if threads:
        torch.set_num_threads(threads)  # sums depend on their number in the last bit
    own, other = open_candidate(candidate, threads), open_candidate(reference, threads)
    candidate, reference = name_of(candidate), name_of(reference)
    check_alike(own, candidate, other, reference)
    given = given_of(other, source, held_out, seed, threads, samples=samples, spread=spread)
    theirs = Side(reference, given, other)
    subject = beside(Side(candidate, given, own), theirs, own.sampler)
    theirs = subject.reference
    wanted = [each for each in measures() if each.verified == "always" or (gate and asked(each, gate))]
    further = None
    if than is not None:
        third, than = open_candidate(than, threads), name_of(than)
        check_alike(third, than, other, reference)
        further = Side(than, given, third)
    if spread is not None:
        spread.do(asked_of(subject, further, wanted))
    found = {each.name: each.measured(subject) for each in wanted}
    results = {name: result for name, result in found.items() if result is not None}
    nearer = None
    if further is not None:
        batch = given.examples
        apart = difference(theirs.scores, subject.candidate.scores, further.scores, batch.targets, seed, batch.scored)
        nearer = Difference(further.name, apart["kl"].value, apart["kl"].ci95, apart["nll"].value, apart["nll"].ci95)
    sound = evidence(theirs.scores, given.examples.scored)
    return Comparison(
        reference,
        candidate,
        source,
        evidence=sound,
        difference=nearer,
        verdict=verdict_of(results, sound, (reference, candidate), gate),
        **{name: found[name] for name in IN_FIELDS},  # type: ignore[arg-type]
        measures={name: result for name, result in results.items() if name not in IN_FIELDS},
    )


def spread_of(
    place: Place,
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    than: str | Path | Candidate | None,
    threads: int,
    listener: Listener,
) -> Spread:
    """The workers of a place, which open the models themselves.

    Raises:
        InputError: one was given open.
    """
    names = {}
    for role, model in (("reference", reference), ("candidate", candidate), ("than", than)):
        if model is not None and not isinstance(model, (str, Path)):
            raise InputError(f"on: workers open models by name; give the name or the folder of the {role}")
        names[role] = str(model)
    return Spread(place, names, threads, listener)


def asked_of(
    subject: Subject, further: Side | None, wanted: Sequence[type[Measure]]
) -> dict[str, tuple[Side, list[Slice]]]:
    """What these measures ask of each model that takes long, by its role; `further` is scored too."""
    given, scored = subject.given, slices("scored", len(subject.given.examples), AT_ONCE)
    parts = [*scored, *slices("drawn", given.samples, AT_ONCE)]
    if subject.reference.model.sampler.guided:
        parts += slices("unconditional", looked_at(given), UNCONDITIONAL_AT_ONCE)
    if Distribution in wanted and Distribution.applies(subject):
        parts += slices("drawn", given.samples, AT_ONCE, other_seed=1)
    roles = {"reference": (subject.reference, parts), "candidate": (subject.candidate, parts)}
    return roles if further is None else roles | {"than": (further, scored)}


def asked(measure: type[Measure], gate: Gate) -> bool:
    """Whether a measure that takes long is limited by a gate."""
    return measure.verified == "asked" and gate.asks_for(measure)


def verdict_of(results: dict[str, Measure], sound: Evidence, names: tuple[str, str], gate: Gate | None) -> Verdict:
    """What breaks promises or a gate, of a reference's and a candidate's names and what was measured of them."""
    reference, candidate = names
    row = Measurement(candidate, "engine", parameters=0, size_bytes=0)
    row = row.with_results({name: result.in_row() for name, result in results.items()})
    breaches = [*promised(row, candidate), *(judge(gate, row, candidate) if gate else [])]
    if not sound.sound:
        breaches.append(no_evidence(sound, reference))
    return Verdict.of(breaches)


def check_gate(gate: Gate | None) -> None:
    """Refuse limits on what is not measured here."""
    if gate is None:
        return
    for key in gate.limits:
        if not key.verified:
            known = ", ".join(each.limit.key for each in keys() if each.verified)
            raise InputError(f"--gates: {key.limit.key} is not measured by verify, which judges {known}")


def check_alike(own: Candidate, candidate: str, other: Candidate, reference: str) -> None:
    """Refuse models that cannot be compared."""
    for name in ("order", "vocabulary", "classes", "length", "predicted"):
        theirs, mine = getattr(other.shape, name), getattr(own.shape, name)
        if theirs != mine:
            raise InputError(f"{candidate}: {name} is {mine}; that of {reference} is {theirs}")


def given_of(
    reference: Candidate,
    source: str,
    held_out: int | None,
    seed: int,
    threads: int,
    each_class: bool = False,
    samples: int | None = None,
    spread: Spread | None = None,
) -> Given:
    """What both models are given: the held-out pictures of a source, or pictures that the reference draws.

    `each_class` takes a picture of each class in turn, instead of the first pictures. Workers, if any, draw.

    Raises:
        InputError: they do not fit the reference.
    """
    tokens = None if source == DRAWN else open_source(source, "--tokens")
    pictures = None if tokens is None else held_out_part(reference, tokens, source, None if each_class else held_out)
    if pictures is not None and each_class:
        pictures = pictures.take(classes_in_turn(pictures.labels)[:held_out])
    return Given(
        shape=reference.shape,
        picture=reference.picture,
        examples=examples(reference.shape, pictures, seed)
        if pictures is not None
        else of_drawn(reference, held_out, seed, spread),
        seed=seed,
        samples=samples or min(held_out or COUPLED_PICTURES, COUPLED_PICTURES),
        source=source,
        tokens=tokens,
        texts=None if pictures is None else pictures.features,
        threads=threads,
        repeats=REPEATS,
    )


def classes_in_turn(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows (N,) so that a picture of each class comes first, then a second of each, and so on."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    turn = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return order[np.lexsort((ordered, turn))]


def of_drawn(reference: Candidate, held_out: int | None, seed: int, spread: Spread | None = None) -> Examples:
    """Teacher-forced examples of pictures that the reference draws, by workers if there are any.

    Raises:
        InputError: so many do not fit into memory, or workers failed.
    """
    shape, count = reference.shape, held_out or DRAWN_PICTURES
    check_scores(shape, count)
    none = np.zeros((0, shape.length), dtype=np.int64)
    given = Given(shape, reference.picture, Examples(none, none, none.astype(bool)), seed, count)
    side = Side("the reference", given, reference)
    if spread is not None:
        spread.do({"reference": (side, slices("drawn", count, AT_ONCE))})
    labels, features = given.conditions(count)
    return examples_of(shape, side.drawn(), labels, seed, features)


def held_out_part(reference: Candidate, tokens: TokenSet, source: str, held_out: int | None) -> TokenSet:
    """The held-out pictures of a source.

    Raises:
        InputError: there are too few, or they do not fit the reference.
    """
    shape = reference.shape
    try:
        pictures = tokens.part("held_out", held_out)
    except ValueError as error:
        raise InputError(f"--held-out: {error}") from error
    if len(pictures) < 2:
        raise InputError(f"--tokens {source}: holds {len(pictures)} held-out pictures; at least 2 are needed")
    check_features(pictures, shape, f"--tokens {source}")
    found, highest = pictures.tokens.shape[1], pictures.tokens.max(initial=0)
    if found != shape.length or highest >= shape.vocabulary or pictures.labels.max() > shape.classes:
        raise InputError(
            f"--tokens {source}: {found} tokens up to {highest}, classes up to {pictures.labels.max()}; the models "
            f"read {shape.length} tokens below {shape.vocabulary} and classes to {shape.classes}"
        )
    return pictures


def check_scores(shape: Shape, count: int) -> None:
    """Refuse more pictures than have room for the logits of two models.

    Raises:
        InputError: so many do not fit into memory.
    """
    one, free = 2 * FLOAT_BYTES * shape.length * shape.predicted, free_bytes()
    if count * one > free:
        raise InputError(
            f"--held-out: the logits of {count} pictures take about {gigabytes(count * one)} of memory, and "
            f"{gigabytes(free)} are free; at most {free // one} fit"
        )
