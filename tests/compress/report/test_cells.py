import pytest

from compress.report.cells import HEADERS, count, overview, size


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
