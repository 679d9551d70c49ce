"""Goals: names of gates' quantities, shares of limits, and time as a share of the reference's."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError
from compress.measure import EngineMeasurement
from compress.measure.drift.fidelity import Fidelity
from compress.measure.speed.timing import SpeedRow
from compress.recipe.gates import Gate, gate
from compress.searching.goal import excess, goal_of, objective


def row(batch: int, speedup: float) -> SpeedRow:
    """A row of speed."""
    return SpeedRow(
        runtime="onnxruntime", batch=batch, median_ms=64.0, ci95=(60.0, 70.0), ms_per_token=1.0,
        images_per_second=1.0, speedup_vs_reference=speedup, speedup_vs_reference_ci95=(speedup / 2, speedup * 2),
    )  # fmt: skip


def test_limits_are_a_gate_and_say_what_has_to_be_measured() -> None:
    made = goal_of({"nll_drift": "1%", "class_accuracy_drop": "0.02"}, ["latency"], {"kl": 0.5})
    assert made.gate == gate(nll_drift=0.01, class_accuracy_drop=0.02, kl=0.5)
    assert [each.name for each in made.measures] == ["fidelity", "class_accuracy"], "cheap before dear"
    assert made.measures[0] is Fidelity
    assert made.timed
    assert not goal_of({"kl": "1"}, ["size"], {}).timed


def test_a_size_in_bytes_is_a_share_of_the_reference() -> None:
    made = goal_of({"size": "8MB"}, ["latency"], {})
    assert made.sized(32_000_000).gate == gate(size=0.25)
    assert goal_of({"size": "30%"}, ["latency"], {}).sized(32_000_000).gate == gate(size=0.3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latenc", "--minimize: no quantity is called 'latenc'; did you mean 'latency'?"),
        ("nll_drif", "--minimize: no quantity is called 'nll_drif'; did you mean 'nll_drift'?"),
        ("agreement", "--minimize agreement: is better the higher it is; give it a limit with --budget agreement=..."),
    ],
)
def test_an_objective_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        objective(name)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        ("nll_drif", "1%", "--budget: unknown key 'nll_drif'; did you mean 'nll_drift'?"),
        ("nll_drift", "much", "--budget.nll_drift: 'much' is not a number"),
        ("nll_drift", "-1%", "--budget.nll_drift: -0.01 is out of range; it must be between 0 and 1"),
        ("nll_drift", "nan", "--budget.nll_drift: nan is not a number"),
    ],
)
def test_a_limit_is_refused_as_a_gate_would_be(name: str, limit: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        goal_of({name: limit}, ["latency"], {})
    assert str(refused.value) == said


def test_latency_is_the_share_of_the_reference_s_time_at_the_smallest_batch() -> None:
    found = objective("latency").finding(
        EngineMeasurement("cpu", "onnx", 1, 1, speed=(row(8, 2.0), row(1, 4.0))), Gate()
    )
    assert found is not None
    assert (found.value, found.interval) == (0.25, (0.125, 0.5))
    assert objective("latency").finding(EngineMeasurement("cpu", "onnx", 1, 1), Gate()) is None
    size = objective("size").finding(EngineMeasurement("cpu", "onnx", 1, 1, size_share=0.3), Gate())
    assert size is not None
    assert size.value == 0.3


def test_excess_is_the_share_of_a_limit_that_is_missing() -> None:
    drift, speedup, exact = (
        next(key for key in gate(**{name: 1.0}).limits) for name in ("nll_drift", "speedup", "max_abs_difference")
    )
    assert excess(drift, 0.03, 0.02) == pytest.approx(0.5)
    assert excess(drift, 0.01, 0.02) == 0
    assert excess(speedup, 1.5, 2.0) == pytest.approx(0.25)
    assert excess(exact, 0.5, 0.0) == 0.5
