"""Engines timed beside each other in one process, and opened anew meanwhile: what `bench` and a search's end do."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from compress.core.lease import timing
from compress.measure.speed.drawing import Drawing
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import PATIENCE, REST_S, Timings, paired
from compress.models.candidate import Candidate, open_candidate


def interleaved(
    runners: Mapping[str, Drawing],
    named: Mapping[str, str | Path | Candidate],
    repeats: int,
    threads: int,
    budget_s: float,
    report: Callable[[int, int], None] = lambda done, rounds: None,
    say: Callable[[str], None] = lambda text: None,
) -> Timings:
    """Time the runners in interleaved rounds, while no other job of this machine times.

    Where it is too noisy to tell how one compares with the first, up to `PATIENCE` times as many rounds are timed, but
    none once `budget_s` seconds are spent. Engines that are `named` by their folders are opened anew every 2 rounds:
    one that stays open may be faster or slower than its own copy all the while.
    """
    mixed = any(not hasattr(runner.drawer, "manifest") for runner in runners.values())
    with timing(say), pinned(threads):
        return paired(
            runners,
            repeats,
            rest_s=REST_S if mixed else 0.0,
            budget_s=budget_s,
            patience=PATIENCE,
            renew=partial(reopen, runners, named, threads),
            report=report,
        )


def reopen(runners: Mapping[str, Drawing], named: Mapping[str, str | Path | Candidate], threads: int) -> None:
    """Open anew, in any order, the engines that are named by their folders, and let each draw once."""
    for name in random.sample(list(runners), len(runners)):
        runner, given = runners[name], named[name]
        if isinstance(given, (str, Path)) and hasattr(runner.drawer, "manifest"):
            runner.drawer = open_candidate(given, threads)
        runner.drawer.decode_images(runner.drawer.draw_tokens(runner.labels, features=runner.features))
