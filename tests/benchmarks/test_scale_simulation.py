"""The simulation of many workers against times that are worked out by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("simpy")
SPEC = importlib.util.spec_from_file_location(
    "scale_simulation", Path(__file__).parents[2] / "benchmarks" / "scale_simulation.py"
)
assert SPEC is not None
assert SPEC.loader is not None
scale = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # where its dataclasses look for their types
SPEC.loader.exec_module(scale)


@pytest.mark.parametrize(("workers", "seconds"), [(1, 60), (4, 20), (6, 10), (100, 10)])
def test_without_accidents_a_job_takes_its_rounds(workers: int, seconds: float) -> None:
    assert scale.Simulation(scale.Scene(6, 10), workers, 0).result() == scale.Result(seconds, 0, 0)


def test_one_driver_is_the_limit_of_many_workers() -> None:
    """100 shards, each 1 s of the driver to receive and write: one after the other, behind the first second of all."""
    scene = scale.Scene(100, 1, receive_s=0.5, publish_s=0.5)
    assert scale.Simulation(scene, 100, 0).result().seconds == 101


def test_workers_that_die_cost_what_they_had_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one dies after 4 s and another takes 2 s to be ready: 2 + 4 + 2 + 10."""
    lives = iter([0.08, 2.0])  # of 50 s
    simulation = scale.Simulation(scale.Scene(1, 10, start_s=2, death_s=50), 1, 0)
    monkeypatch.setattr(simulation.random, "expovariate", lambda rate: next(lives))
    assert simulation.result() == scale.Result(18, 0, 1)


def test_stragglers_take_as_many_times_as_long() -> None:
    assert scale.Simulation(scale.Scene(4, 10, slow=1, slowness=3), 2, 0).result().seconds == 60
