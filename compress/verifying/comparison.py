"""Compare two candidates for drift, or several for speed: what `compress verify` and `compress bench` do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.core.settings import InputError, setting
from compress.data.tokens import check_features, open_source
from compress.measure import Measure, Measurement, measures
from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.drift.evidence import Evidence, evidence
from compress.measure.drift.fidelity import Fidelity, difference
from compress.measure.drift.sampled import Sampled
from compress.measure.pictures.decoding import Decoding
from compress.measure.quantity import quantity
from compress.measure.subject import AT_ONCE, Given, Side, beside
from compress.models.candidate import Candidate, name_of, open_candidate
from compress.models.transformer.examples import Examples, examples, examples_of
from compress.recipe.gates import Gate, keys
from compress.recipe.verdict import Verdict, judge, no_evidence, promised
from export.runtime.drawing import conditions
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
) -> Comparison:
    """Score both on the held-out pictures of a token source, or on pictures that the reference draws; judge the drift.

    `samples` are the pictures that both draw with the same noise, 32 at most if it is not given.

    Raises:
        InputError: one of them cannot be opened, the tokens do not fit, or a gate is not measured here.
    """
    check_gate(gate)
    own, other = open_candidate(candidate, threads), open_candidate(reference, threads)
    candidate, reference = name_of(candidate), name_of(reference)
    check_alike(own, candidate, other, reference)
    given = given_of(other, source, held_out, seed, threads, samples=samples)
    theirs = Side(reference, given, other)
    subject = beside(Side(candidate, given, own), theirs, own.sampler)
    theirs = subject.reference
    wanted = [each for each in measures() if each.verified == "always" or (gate and asked(each, gate))]
    found = {each.name: each.measured(subject) for each in wanted}
    results = {name: result for name, result in found.items() if result is not None}
    nearer = None
    if than is not None:
        third, than = open_candidate(than, threads), name_of(than)
        check_alike(third, than, other, reference)
        scores, batch = Side(than, given, third).scores, given.examples
        apart = difference(theirs.scores, subject.candidate.scores, scores, batch.targets, seed, batch.scored)
        nearer = Difference(than, apart["kl"].value, apart["kl"].ci95, apart["nll"].value, apart["nll"].ci95)
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
) -> Given:
    """What both models are given: the held-out pictures of a source, or pictures that the reference draws.

    `each_class` takes a picture of each class in turn, instead of the first pictures.

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
        examples=of_drawn(reference, held_out, seed) if pictures is None else examples(reference.shape, pictures, seed),
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


def of_drawn(reference: Candidate, held_out: int | None, seed: int) -> Examples:
    """Teacher-forced examples of pictures that the reference draws.

    Raises:
        InputError: so many do not fit into memory.
    """
    shape = reference.shape
    check_scores(shape, held_out or DRAWN_PICTURES)
    labels, features = conditions(shape, held_out or DRAWN_PICTURES)
    parts = [
        reference.draw_tokens(
            labels[rows], seed, features=None if features is None else features[rows], first=rows.start
        )
        for rows in (slice(start, start + AT_ONCE) for start in range(0, len(labels), AT_ONCE))
    ]
    return examples_of(shape, np.concatenate(parts), labels, seed, features)


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
