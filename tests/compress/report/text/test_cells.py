from dataclasses import replace

import pytest

from compress.report.text.cells import HEADERS, count, overview, precision, size


def test_the_overview_has_a_cell_for_every_header(report):
    rows = overview(report)
    assert [row[0] for row in rows] == ["reference", "distill", "cpu", "tensorrt"]
    assert {len(row) for row in rows} == {len(HEADERS)}


def test_speed_is_that_of_the_smallest_batch(report):
    assert dict(zip(HEADERS, overview(report)[2], strict=True))["ms/token"] == "0.469"


def test_what_was_not_measured_is_a_dash(report):
    assert overview(report)[0][3:6] == ("–", "–", "–")


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (1_000, "1 k"), (26_160_000, "26.2 M"), (6_512_345_678, "6.51 G")]
)
def test_large_numbers_are_said_in_three_digits(number, text):
    assert count(number) == text


@pytest.mark.parametrize(("number", "text"), [(900, "900 B"), (26_160_000, "26.2 MB")])
def test_sizes_are_in_decimal_units(number, text):
    assert size(number) == text


def test_precision_says_what_a_finer_answer_costs(report):
    found = replace(
        report.engines[0].fidelity,
        pictures=100,
        nll_drift=0.01,
        nll_drift_ci95=(0.008, 0.012),
        kl=0.1,
        kl_ci95=(0.09, 0.11),
    )
    assert precision(found) == (
        "NLL drift is known to 0.2 points either way with 100 pictures; for 0.1 points about 400 are needed. "
        "KL is known to 10 %; for 5 % about 400 are needed."
    )
    fine = replace(found, nll_drift_ci95=(-0.0005, 0.0005), kl_ci95=(0.099, 0.101))
    assert precision(fine) == (
        "NLL drift is known to 0.05 points either way with 100 pictures. KL is known to 1 %. "
        "There is no measurable change of the NLL: the interval holds 0."
    )
    few = replace(fine, pictures=99)
    assert precision(few).endswith(". 99 pictures are few: hold out 100 or more where a gate decides.")
