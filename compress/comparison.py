"""Compare two candidates for drift, or several for speed: what `compress verify` and `compress bench` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compress.candidate import drawing, open_candidate
from compress.measure import Measurement
from compress.measure.fidelity import Fidelity, fidelity
from compress.measure.speed import SpeedRow, paired
from compress.models.examples import examples
from compress.settings import InputError, setting
from compress.tokens import open_source
from compress.verdict import Gate, Verdict, judge
from export.drawing import conditions


@dataclass(frozen=True)
class Comparison:
    """A candidate's drift from a reference, and the verdict of the gates."""

    reference: str = setting(doc="what the candidate was compared with")
    candidate: str = setting(doc="what was judged")
    fidelity: Fidelity = setting(doc="the drift")
    stepwise_max_abs_difference: float = setting(
        doc="candidate: largest logit difference, one call against cached loop"
    )
    verdict: Verdict = setting(doc="whether every gate was kept")


STEPWISE_PICTURES = 8


def compare(
    reference: str, candidate: str, gate: Gate | None, source: str, held_out: int | None, threads: int
) -> Comparison:
    """Score both on the held-out pictures of a token source and judge the drift.

    Raises:
        InputError: one of them cannot be opened, or the tokens do not fit.
    """
    own, other = open_candidate(candidate, threads), open_candidate(reference, threads)
    tokens = open_source(source, "--tokens")
    try:
        pictures = tokens.part("held_out", held_out)
    except ValueError as error:
        raise InputError(f"--held-out: {error}") from error
    for name in ("order", "vocabulary", "classes", "length", "predicted"):
        theirs, mine = getattr(other.shape, name), getattr(own.shape, name)
        if theirs != mine:
            raise InputError(f"{candidate}: {name} is {mine}; that of {reference} is {theirs}")
    vocabulary, classes, length = own.vocabulary, own.classes, own.length
    if len(pictures) < 2:
        raise InputError(f"--tokens {source}: holds {len(pictures)} held-out pictures; at least 2 are needed")
    if pictures.tokens.shape[1] != length or pictures.tokens.max() >= vocabulary or pictures.labels.max() > classes:
        raise InputError(
            f"--tokens {source}: {pictures.tokens.shape[1]} tokens up to {pictures.tokens.max()}, classes up to "
            f"{pictures.labels.max()}; the models read {length} tokens below {vocabulary} and classes to {classes}"
        )
    asked = examples(own.shape, pictures)
    logits = own.score(asked.inputs, asked.features)
    drift = fidelity(other.score(asked.inputs, asked.features), logits, asked.targets, scored=asked.scored)
    few = asked.take(slice(STEPWISE_PICTURES))
    difference = float(np.abs(own.score_stepwise(few.inputs, few.features) - logits[: len(few)]).max())
    measurement = Measurement(candidate, "engine", parameters=0, size_bytes=0, fidelity=drift)
    breaches = judge(gate, measurement, candidate) if gate else []
    return Comparison(reference, candidate, drift, difference, Verdict.of(breaches))


@dataclass(frozen=True)
class BenchRow:
    """One engine at one batch size."""

    engine: str = setting(doc="the engine's folder or name")
    speed: SpeedRow = setting(doc="its time; the reference is the first engine")


def bench(names: Sequence[str], batches: Sequence[int], repeats: int, threads: int) -> list[BenchRow]:
    """Draw with every engine in turn, interleaved, at every batch size; speedups are against the first.

    Raises:
        InputError: one of them cannot be opened.
    """
    import torch

    torch.set_num_threads(threads)
    drawers = {name: open_candidate(name, threads) for name in dict.fromkeys(names)}
    rows = []
    for batch in batches:
        timings = paired(
            {name: drawing(drawer, *conditions(drawer.shape, batch)) for name, drawer in drawers.items()}, repeats
        )
        for name, drawer in drawers.items():
            first = next(iter(drawers))
            runtime = "onnxruntime" if hasattr(drawer, "manifest") else "torch eager"
            row = timings.row(
                name,
                runtime=runtime,
                batch=batch,
                length=drawer.length,
                reference=None if name == first else first,
            )
            rows.append(BenchRow(name, row))
    return rows
