"""The benchmark of workers measures warm ones in turn."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from jobs_of_workers import Slept

from compress.workers.crew import Task
from compress.workers.local import LocalCrew

SPEC = importlib.util.spec_from_file_location("scale", Path(__file__).parents[2] / "benchmarks" / "scale.py")
assert SPEC is not None
assert SPEC.loader is not None
scale = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # where its dataclasses look for their types
SPEC.loader.exec_module(scale)


def test_workers_stay_between_jobs_and_times_are_their_own() -> None:
    made = []

    class Counted(LocalCrew):
        def start(self):
            made.append(super().start())
            return made[-1]

    crew = scale.Kept(Counted(1, Slept()), 1)
    tasks = [Task(f"{number}", 0.05) for number in range(3)]
    rows = list(scale.interleaved({"a": crew}, tasks, rounds=2))
    assert len(made) == 1
    assert [len(row.inside) for row in rows] == [3, 3]
    assert all(0.15 <= sum(row.inside) <= row.seconds for row in rows)
    for worker in crew.resting:
        worker.stop()
