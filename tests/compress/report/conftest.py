from dataclasses import replace

import numpy as np
import pytest

from compress.measure import EngineMeasurement, Measurement
from compress.measure.drift.fidelity import fidelity
from compress.measure.pictures.classify import ClassAccuracy
from compress.measure.speed.environment import Environment
from compress.measure.speed.timing import SpeedRow
from compress.recipe.gates import gate
from compress.recipe.verdict import Verdict, judge
from compress.report import Report


def drift(noise):
    generator = np.random.default_rng(0)
    reference = 2 * generator.normal(size=(40, 8, 5))
    targets = generator.integers(0, 5, size=(40, 8))
    return fidelity(reference, reference + noise * generator.normal(size=reference.shape), targets)


def speed(batch, ms, vs_reference, vs_previous):
    interval = [None if value is None else (0.97 * value, 1.03 * value) for value in (vs_reference, vs_previous)]
    return SpeedRow(
        "onnxruntime", batch, float(ms), (0.97 * ms, 1.03 * ms), ms / 64, 1e3 * batch / ms,
        vs_reference, interval[0], vs_previous, interval[1], peak_mib=101.5,
    )  # fmt: skip


@pytest.fixture
def report():
    reference = Measurement(
        "reference", "torch", 6_510_000, 26_100_000, 1.0, speed=(speed(8, 250, None, None), speed(1, 107, None, None))
    )
    distill = Measurement(
        "distill", "torch", 5_510_000, 22_100_000, 0.85, drift(0.02), drift(0.01),
        (speed(8, 220, 1.14, 1.0), speed(1, 90, 1.2, 1.01)), notes={"steps": 300},
    )  # fmt: skip
    accuracy = ClassAccuracy(500, 0.942, (0.92, 0.96), 0.95, (0.93, 0.965), 0.008, (-0.01, 0.03), 0.99, (0.97, 1.0))
    cpu = EngineMeasurement(
        "cpu", "engine", 5_510_000, 6_100_000, 0.23, drift(0.3), drift(0.3),
        (speed(8, 80, 3.1, 2.7), speed(1, 30, 3.6, 3.0)), accuracy, 0.87, folder="engines/cpu", target="onnxruntime",
    )  # fmt: skip
    tensorrt = EngineMeasurement(
        "tensorrt", "onnx", 5_510_000, 900, 0.23, drift(0.3), drift(0.3),
        folder="engines/tensorrt", target="tensorrt", not_built="TensorRT is not installed",
    )  # fmt: skip
    return Report(
        verdict=Verdict.of(judge(gate(agreement=0.99), cpu, "cpu")),
        environment=Environment("Fast CPU", ("avx2",), 2, 4096, "Linux", "3.12.1", {"torch": "2.13.0"}),
        recipe={"model": {"family": "reference"}, "passes": ["distill"]},
        reference=reference,
        steps=(replace(distill, pays="does not pay: no measurable change in speed, no fewer bytes"),),
        engines=(cpu, tensorrt),
        pictures={"reference and cpu, same seeds": "cpu.png"},
    )
