"""Compare two candidates for drift, or several for speed: what `compress verify` and `compress bench` do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, setting
from compress.data.tokens import check_features, open_source
from compress.measure import Measurement
from compress.measure.drift.evidence import Evidence, evidence
from compress.measure.drift.fidelity import Fidelity, difference, fidelity
from compress.measure.drift.sampled import Pair, Sampled, sampled
from compress.measure.pictures import decoding
from compress.measure.pictures.decoding import Decoding
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import REST_S, SpeedRow, paired
from compress.models.candidate import Candidate, decoder_bytes, name_of, open_candidate, pixels_of
from compress.models.transformer.examples import Examples, examples
from compress.models.transformer.examples import asked as asked_of
from compress.recipe.verdict import OF_DECODERS, OF_DRIFT, UNITS, Gate, Verdict, judge, no_evidence
from export.runtime.drawing import conditions
from export.runtime.shape import Shape
from export.runtime.throughput import check_batch, free_bytes, gigabytes


@dataclass(frozen=True)
class Difference:
    """A candidate against another one, both against the reference: their paired difference."""

    other: str = setting(doc="the other candidate")
    kl: float = setting(doc="KL of the candidate less that of the other, nats per token; negative is closer")
    kl_ci95: tuple[float, float] = setting(doc="its interval over pictures")
    nll: float = setting(doc="the same of the NLL, nats per token")
    nll_ci95: tuple[float, float] = setting(doc="its interval")


@dataclass(frozen=True)
class Comparison:
    """A candidate's drift from a reference, and the verdict of the gates."""

    reference: str = setting(doc="what the candidate was compared with")
    candidate: str = setting(doc="what was judged")
    tokens: str = setting(doc="the pictures that were scored: a token source, or those that the reference drew")
    fidelity: Fidelity = setting(doc="the drift")
    sampled: Sampled = setting(doc="the drift of what is drawn from, after guidance, temperature and cuts")
    cached_loop: Fidelity = setting(doc="the candidate's cached loop against its own single call, of a few pictures")
    evidence: Evidence = setting(doc="whether the reference's predictions can show drift at all")
    decoding: Decoding | None = setting(doc="the image decoders, where each has its own")
    difference: Difference | None = setting(doc="against another candidate, where one was given")
    verdict: Verdict = setting(doc="whether every gate was kept")


STEPWISE_PICTURES = 8
DRAWN = "drawn"  # as a token source: the reference draws the pictures
DRAWN_PICTURES = 64
AT_ONCE = 16
DECODE_REPEATS = 8
FLOAT_BYTES = 4
OF_VERIFY = (*OF_DRIFT, "max_abs_difference", *OF_DECODERS)  # what is measured here


def compare(
    reference: str | Path | Candidate,
    candidate: str | Path | Candidate,
    gate: Gate | None,
    source: str,
    held_out: int | None,
    threads: int,
    than: str | Path | Candidate | None = None,
    seed: int = 0,
) -> Comparison:
    """Score both on the held-out pictures of a token source, or on pictures that the reference draws; judge the drift.

    Raises:
        InputError: one of them cannot be opened, the tokens do not fit, or a gate is not measured here.
    """
    check_gate(gate)
    own, other = open_candidate(candidate, threads), open_candidate(reference, threads)
    candidate, reference = name_of(candidate), name_of(reference)
    check_alike(own, candidate, other, reference)
    asked = questions(other, source, held_out, seed)
    theirs, logits = (each.score(asked.inputs, asked.features) for each in (other, own))
    shape = other.shape
    drift = fidelity(theirs, logits, asked.targets, seed, asked.scored, shape, math.prod(other.picture))
    few = asked.take(slice(STEPWISE_PICTURES))
    stepwise = own.score_stepwise(few.inputs, few.features)
    loop = fidelity(logits[: len(few)], stepwise, few.targets, seed, few.scored, shape)
    nearer = None
    if than is not None:
        third, than = open_candidate(than, threads), name_of(than)
        check_alike(third, than, other, reference)
        scores = third.score(asked.inputs, asked.features)
        apart = difference(theirs, logits, scores, asked.targets, seed, asked.scored)
        nearer = Difference(than, apart["kl"].value, apart["kl"].ci95, apart["nll"].value, apart["nll"].ci95)
    after = sampled(pairs(other, own, theirs, logits, asked), shape, other.sampler, seed)
    decoders = decoders_of(own, other, asked.targets, seed)
    found = evidence(theirs, asked.scored)
    measurement = Measurement(
        candidate, "engine", parameters=0, size_bytes=0, fidelity=drift, sampled=after, decoding=decoders
    )
    breaches = judge(gate, measurement, candidate) if gate else []
    if not found.sound:
        breaches.append(no_evidence(found, reference))
    return Comparison(reference, candidate, source, drift, after, loop, found, decoders, nearer, Verdict.of(breaches))


def check_gate(gate: Gate | None) -> None:
    """Refuse limits on what is not measured here."""
    if gate is None:
        return
    for key in UNITS:
        if getattr(gate, key) is not None and key not in OF_VERIFY:
            raise InputError(f"--gates: {key} is not measured by verify, which judges {', '.join(OF_VERIFY)}")


def check_alike(own: Candidate, candidate: str, other: Candidate, reference: str) -> None:
    """Refuse models that cannot be compared."""
    for name in ("order", "vocabulary", "classes", "length", "predicted"):
        theirs, mine = getattr(other.shape, name), getattr(own.shape, name)
        if theirs != mine:
            raise InputError(f"{candidate}: {name} is {mine}; that of {reference} is {theirs}")


def questions(reference: Candidate, source: str, held_out: int | None, seed: int) -> Examples:
    """Teacher-forced examples of the held-out pictures of a source, or of pictures that the reference draws.

    Raises:
        InputError: they do not fit the reference.
    """
    shape = reference.shape
    if source == DRAWN:
        check_scores(shape, held_out or DRAWN_PICTURES)
        labels, features = conditions(shape, held_out or DRAWN_PICTURES)
        parts = [
            reference.draw_tokens(
                labels[rows], seed, features=None if features is None else features[rows], first=rows.start
            )
            for rows in (slice(start, start + AT_ONCE) for start in range(0, len(labels), AT_ONCE))
        ]
        return asked_of(shape, np.concatenate(parts), labels, seed, features)
    tokens = open_source(source, "--tokens")
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
    return examples(shape, pictures, seed)


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


def pairs(
    reference: Candidate,
    candidate: Candidate,
    theirs: NDArray[np.float32],
    own: NDArray[np.float32],
    asked: Examples,
) -> Iterator[tuple[Pair, Pair, NDArray[np.bool_]]]:
    """Logits of the class and of no class, a few pictures at a time."""
    shape, guided = reference.shape, reference.sampler.guided
    for start in range(0, len(asked), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        few = asked.take(rows).of_no_class(shape)
        nulls = [each.score(few.inputs, few.features) if guided else None for each in (reference, candidate)]
        yield (theirs[rows], nulls[0]), (own[rows], nulls[1]), few.scored


def decoders_of(own: Candidate, other: Candidate, tokens: NDArray[np.int64], seed: int) -> Decoding | None:
    """The image decoders of two candidates on the same tokens (N, T); None where one of them has none of its own."""
    first, second = pixels_of(own), pixels_of(other)
    if first is None or second is None:
        return None
    few, one = tokens[: decoding.MOST_PICTURES], tokens[:1]
    timings = paired({"own": lambda: first(one), "reference": lambda: second(one)}, DECODE_REPEATS)
    return decoding.compared(first, second, few, (decoder_bytes(own), decoder_bytes(other)), timings, seed)


@dataclass(frozen=True)
class BenchRow:
    """One engine at one batch size."""

    engine: str = setting(doc="the engine's folder or name")
    speed: SpeedRow = setting(doc="its time; the reference is the first engine")


def bench(
    engines: Sequence[str | Path | Candidate], batches: Sequence[int], repeats: int, threads: int
) -> list[BenchRow]:
    """Draw with every engine in turn, interleaved, at every batch size; speedups are against the first.

    Raises:
        InputError: one of them cannot be opened, or a batch does not fit into memory.
    """
    import torch

    torch.set_num_threads(threads)
    drawers = {name_of(each): open_candidate(each, threads) for each in engines}
    for name, drawer in drawers.items():
        try:
            check_batch(drawer.shape, drawer.sampler, drawer.cache_bytes, max(batches))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    rows = []
    for batch in batches:
        runners = {name: Drawing(drawer, *conditions(drawer.shape, batch)) for name, drawer in drawers.items()}
        with pinned(threads):
            mixed = any(not hasattr(drawer, "manifest") for drawer in drawers.values())
            timings = paired(runners, repeats, rest_s=REST_S if mixed else 0.0)
        for name, drawer in drawers.items():
            first = next(iter(drawers))
            runtime = "onnxruntime" if hasattr(drawer, "manifest") else "torch eager"
            row = timings.row(
                name,
                runtime=runtime,
                batch=batch,
                length=drawer.length,
                reference=None if name == first else first,
                rounds=runners[name].of_rounds(len(timings.seconds[name])),
            )
            rows.append(BenchRow(name, row))
    return rows
