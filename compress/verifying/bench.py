"""Time several engines against each other: what `compress bench` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.core.settings import InputError, setting
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.interleaved import interleaved
from compress.measure.speed.timing import SpeedRow
from compress.models.candidate import Candidate, name_of, open_candidate
from export.runtime.drawing import conditions
from export.runtime.throughput import check_batch

BUDGET_S = 600.0  # of a batch size; 6 rounds are timed whatever they take


@dataclass(frozen=True)
class BenchRow:
    """One engine at one batch size."""

    engine: str = setting(doc="the engine's folder or name")
    speed: SpeedRow = setting(doc="its time; the reference is the first engine")


def bench(
    engines: Sequence[str | Path | Candidate], batches: Sequence[int], repeats: int, threads: int
) -> list[BenchRow]:
    """Draw with every engine in turn, interleaved, at every batch size; speedups are against the first.

    `threads` 0 are as many as PyTorch takes by itself. Of what is given twice one is timed. Where it is too noisy to
    tell how one compares with the first, up to three times as many rounds are timed, but none once a batch size has
    taken 10 minutes. Engines that are named by their folders are opened anew every 2 rounds: one that stays open
    may be faster or slower than its own copy all the while.

    Raises:
        InputError: one of them cannot be opened, two have one name, or a batch does not fit into memory.
    """
    import torch

    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    named: dict[str, str | Path | Candidate] = {}
    for each in engines:
        if named.setdefault(name_of(each), each) != each:
            raise InputError(f"two different engines are called {name_of(each)}; give their folders")
    drawers = {name: open_candidate(each, threads) for name, each in named.items()}
    for name, drawer in drawers.items():
        try:
            check_batch(drawer.shape, drawer.sampler, drawer.cache_bytes, max(batches))
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error
    rows = []
    for batch in batches:
        runners = {name: Drawing(drawer, *conditions(drawer.shape, batch)) for name, drawer in drawers.items()}
        timings = interleaved(runners, named, repeats, threads, BUDGET_S)
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
