"""The verifier tried on engines with faults that are known to be there, and on engines that are known to be sound.

A verifier that never found anything may be blind. So every fault of `faults` is planted into a sound engine, and must
be noticed by the gates of `verify` and named by `bisect`, as a user runs them; nothing here measures by itself. Sound
engines and harmless edits of them must not ring, and every measure must be the only one to see some fault, so that it
cannot go blind unnoticed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.ranges import one_thread
from compress.data.tokens import open_source
from compress.measure.drift.fidelity import columns_of
from compress.measure.statistics import percentile_interval, resampled_means
from compress.models.candidate import open_model
from compress.models.transformer.examples import examples
from compress.verifying.selftest.bases import BASES, build
from compress.verifying.selftest.faults import FAULTS, Fault
from compress.verifying.selftest.result import MOST_FALSE, Quiet, SelfTest, only_seen_by
from compress.verifying.selftest.trial import SETS, Caught
from compress.verifying.selftest.work import QUIET, Room, Task, results

SHIPPED = "digits"
PROCESSES = 2
TRIALS = {"exact": 75, "tight": 75}  # of no false alarm in 73 the 95 % interval of their rate ends at 5 %
HALVES = 200
FIRST_SEED = 1000  # of what must not ring; limits were chosen looking at seeds below 25


def run(
    report: Callable[[int, int], None] = lambda done, count: None,
    *,
    faults: Sequence[Fault] = FAULTS,
    trials: Mapping[str, int] = TRIALS,
    halves: int = HALVES,
    processes: int = PROCESSES,
) -> SelfTest:
    """Build the sound engines, plant every fault, try what is harmless, and count intervals."""
    began = used()
    with tempfile.TemporaryDirectory(prefix="compress-") as name:
        room = Path(name)
        build(tuple(BASES), room)
        Room(room).prepare()
        planted: list[Task] = [("fault", FAULTS.index(each), 0) for each in faults]
        quiet = quiet_tasks(trials)
        followed: list[Task] = [("named", which, 0) for which in dict.fromkeys(task[1] for task in quiet)]
        made = results([*planted, *quiet, *followed], room, processes, report)
    return SelfTest(
        faults=tuple(made[task] for task in planted),
        quiet=tuple(quiet_of(which, made, quiet) for _, which, _ in followed),
        trials=halves,
        intervals_missed=intervals_missed(halves),
        seconds=used() - began,
    )


def used() -> float:
    """Processor time of this process and of those that it waited for, seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def quiet_tasks(trials: Mapping[str, int]) -> list[Task]:
    """So many trials with each set of gates, the engines in turn, each with seeds of its own."""
    made: list[Task] = []
    for gates, count in trials.items():
        which = [number for number, each in enumerate(QUIET) if each.gates == gates]
        made += [("quiet", which[index % len(which)], FIRST_SEED + index // len(which)) for index in range(count)]
    return made


def quiet_of(which: int, made: Mapping[Task, Any], tasks: Sequence[Task]) -> Quiet:
    """The trials with one engine together."""
    each, own = QUIET[which], [task for task in tasks if task[1] == which]
    rang = tuple(", ".join(made[task]) for task in own if made[task])
    return Quiet(each.name, each.base, each.gates, len(own), rang, made["named", which, 0])


def intervals_missed(halves: int) -> int:
    """How often the interval of the difference between two halves of the same NLLs leaves out 0."""
    model = open_model(SHIPPED)
    given = examples(model.shape, open_source("digits", "self-test").part("held_out"))
    with one_thread():
        scores = model.score(given.inputs, given.features)
    nll = columns_of(scores, scores, given.targets, given.scored).per_picture[:, 0]
    missed = 0
    for seed in range(halves):
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(nll))
        first, second = nll[order[: len(nll) // 2]], nll[order[len(nll) // 2 :]]
        draws = [resampled_means(half[:, None], 2 * seed + place)[:, 0] for place, half in enumerate((first, second))]
        found = percentile_interval(first.mean() - second.mean(), draws[0] - draws[1], len(first))
        missed += not found.low <= 0 <= found.high
    return missed


__all__ = ["FAULTS", "MOST_FALSE", "SETS", "Caught", "Fault", "Quiet", "SelfTest", "only_seen_by", "run"]
