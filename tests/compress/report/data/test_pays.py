from dataclasses import replace

import numpy as np
import pytest

from compress.measure import Measurement
from compress.measure.drift.fidelity import fidelity
from compress.measure.speed.timing import SpeedRow
from compress.report.data.pays import engine_pays, step_pays

PREVIOUS = Measurement("export", "onnx", 1000, 4000)


def step(*speedups, size_bytes=4000, drift=0.0, form="onnx"):
    """A step with these speedups over the previous one (batch 1, 2, ...), each within 2 %, and this NLL drift."""
    rows = tuple(
        SpeedRow("cpu", batch, 1.0, (1.0, 1.0), 0.1, 1.0, None, None, value, (0.98 * value, 1.02 * value))
        for batch, value in enumerate(speedups, start=1)
    )
    logits = np.zeros((2, 1, 2))
    nearer = fidelity(logits, logits, np.zeros((2, 1), dtype=int))
    nearer = replace(nearer, nll_drift=drift, nll_drift_ci95=(drift - 0.001, drift + 0.001))
    return Measurement("step", form, 1000, size_bytes, fidelity_vs_previous=nearer, speed=rows)


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (step(1.5), ""),
        (step(1.5, 1.0, drift=0.02), ""),
        (step(1.0), "does not pay: no measurable change in speed, no fewer bytes"),
        (step(0.8), "does not pay: 0.80x the speed at batch 1, no fewer bytes"),
        (step(1.01, drift=0.02), "does not pay: no measurable change in speed, NLL 2 % higher, no fewer bytes"),
        (step(1.0, size_bytes=5000), "does not pay: no measurable change in speed, 25 % more bytes"),
        (step(1.0, size_bytes=1000), "no measurable change in speed; but 75 % fewer bytes"),
        (step(1.0, drift=-0.03), "no measurable change in speed; but NLL 3 % lower"),
        (step(1.5, 0.9), "0.90x the speed at batch 2; but 1.50x faster at batch 1"),
        (step(size_bytes=1000), ""),
        (step(), "does not pay: nothing changed"),
        (step(drift=0.02), "does not pay: NLL 2 % higher"),
        (step(1.0, form="engine"), ""),
    ],
)
def test_a_step_that_does_not_pay_is_told_why(measured, text):
    assert step_pays(measured, PREVIOUS) == text


def test_drift_that_only_rounding_makes_is_no_cost():
    tiny = step(1.0)
    nearer = replace(tiny.fidelity_vs_previous, nll_drift=1e-7, nll_drift_ci95=(5e-8, 2e-7))
    assert "NLL" not in step_pays(replace(tiny, fidelity_vs_previous=nearer), PREVIOUS)


def engine(*speedups, share=1.0, last=1.0):
    """An engine with these speedups over the reference and this share of its bytes, whose last step won `last`."""
    rows = step(*(last for _ in speedups)).speed
    against = [
        replace(row, speedup_vs_reference=value, speedup_vs_reference_ci95=(0.98 * value, 1.02 * value))
        for row, value in zip(rows, speedups, strict=True)
    ]
    return Measurement("cpu", "engine", 1000, 4000, size_share=share, speed=tuple(against))


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (engine(3.6, last=1.0), ""),
        (engine(3.6, last=0.8), ""),
        (engine(0.8, last=1.5), "does not pay: 0.80x the speed at batch 1, no fewer bytes (against the reference)"),
        (engine(1.0, share=0.25), "no measurable change in speed; but 75 % fewer bytes (against the reference)"),
        (engine(), ""),
    ],
)
def test_an_engine_is_held_against_the_reference_whatever_its_last_step_won(measured, text):
    assert engine_pays(measured) == text
