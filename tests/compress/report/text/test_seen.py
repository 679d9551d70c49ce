"""Tables of what users see."""

from __future__ import annotations

from dataclasses import replace

from compress.measure.drift.cached_loop import CachedLoop
from compress.measure.drift.coupled import Coupled
from compress.measure.drift.one_file import OneFile
from compress.measure.drift.sampled import Sampled
from compress.measure.drift.sampler import SamplerCheck
from compress.measure.drift.worst import Worst
from compress.measure.pictures.distribution import Distances, Distribution
from compress.measure.pictures.encoding import Encoding
from compress.measure.pictures.shown import Shown
from compress.measure.speed.plans import PlanOfGraph, Plans
from compress.report.text.markdown import markdown
from compress.report.text.seen import tables

STEP = PlanOfGraph("decode", "step", 62, {"Int8 x Int8": 24}, 4, 3, 1, 0, 0, 12, 12)
SAMPLED = Sampled(
    40, 1.5, 1.0, 0, 1.0, 0.02, (0.01, 0.03), 0.05, (0.04, 0.06), 0.9, (0.88, 0.92), 0.07, (0.06, 0.08), 0.1
)
COUPLED = Coupled(100, 64, 0.25, (0.18, 0.34), (3, 9, 40), 0.4, (0.35, 0.45))


def apart(frechet: float) -> Distances:
    return Distances(frechet, (0.0, 2 * frechet), 0.01, (-0.01, 0.03), 0.9, 0.8, 1.1, 0.95, 0.001, 0.002)


def test_what_was_not_measured_has_no_table(report) -> None:
    assert [each.rows(report) for each in tables()] == [[]] * 10


def test_tables_hold_what_was_measured_with_intervals_and_the_floor(report) -> None:
    sets = Distribution("SVC", 10, 100, apart(0.5), apart(0.25))
    further = {
        "cached_loop": CachedLoop(8, 0.5, (0.25, 1.0), 0.125),
        "one_file": OneFile(8, 0.25, 0.5),
        "sampler": SamplerCheck(16, 1024, 0.125),
        "worst": Worst(
            *(40, 0.5, (0.25, 1.0), 7, 10, 0, 0.125, (0.1, 0.2), 63, 64),
            *(0.25, (0.2, 0.5), 16, 17),
        ),
        "encoding": Encoding(16, 0.5, (0.25, 0.75)),
        "plans": Plans("TensorRT for RTX 1.7", ("8.9",), (STEP,), ("/qkv",), 0.75, None, 1.0, 1, 62, 9.5),
        "shown": Shown(16, 30.0, (29.0, 31.0), 0.0),
    }
    engine = replace(report.engines[0], sampled=SAMPLED, coupled=COUPLED, distribution=sets, measures=further)
    shown = replace(report, engines=(engine,))
    drawn, paired, as_sets, *others = (each.rows(shown) for each in tables())
    assert drawn == [
        ("cpu", "0.02 (0.01 to 0.03)", "0.05 (0.04 to 0.06)", "90.0 (88.0 to 92.0)", "7.0 (6.0 to 8.0)", "10.00")
    ]
    assert paired == [("cpu", "100", "25.0 (18.0 to 34.0)", "3 / 9 / 40 of 64", "40.0 (35.0 to 45.0)")]
    assert [row[:3] for row in as_sets] == [
        ("cpu", "FD-SVC", "0.5 (0 to 1)"),
        ("the reference against itself", "FD-SVC", "0.25 (0 to 0.5)"),
    ]
    assert [rows for rows in others if rows] == [
        [("cpu", "0.5 (0.25 to 1)", "0.125")],
        [("cpu", "25.00", "50.00")],
        [("cpu", "12.50")],
        [("cpu", "0.5 (0.25 to 1)", "0.125 (0.1 to 0.2)", "25.0 (20.0 to 50.0)")],
        [("cpu", "50.0 (25.0 to 75.0)")],
        [("cpu", "30 (29 to 31)", "0.00")],
        [("cpu", "75.00", "–", "100.00", "1", "62", "9.5")],
    ]
    page = markdown(shown)
    assert all(f"## {each.title}" in page for each in tables())


def test_only_features_of_inception_make_it_a_fid(report) -> None:
    assert Distribution("Inception", 2048, 100, apart(1), apart(1)).distance == "FID"
