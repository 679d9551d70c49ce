"""Quantities: units in words and cells, intervals by their names."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from compress.core.settings import setting
from compress.measure.quantity import Quantity, interval_of, quantities, quantity


@dataclass(frozen=True)
class Found:
    """Two quantities, one with an interval, and a number that is none."""

    pictures: int = setting(doc="pictures")
    kl: float = quantity(doc="KL", unit="nats", column="KL, nats")
    kl_ci95: tuple[float, float] = setting(doc="its interval")
    speed: float = quantity(doc="speed", unit="times", better="higher")


def test_quantities_are_found_with_their_intervals() -> None:
    found = Found(3, 0.5, (0.25, 0.75), 2.0)
    assert [(name, each.unit, each.better) for name, each in quantities(Found)] == [
        ("kl", "nats", "lower"),
        ("speed", "times", "higher"),
    ]
    assert interval_of(found, "kl") == (0.25, 0.75)
    assert interval_of(found, "speed") is None


@pytest.mark.parametrize(
    ("unit", "words", "cell"),
    [
        ("percent", "12.3 %", "12.3 (10.0 to 20.0)"),
        ("points", "12.3 points", "12.3 (10.0 to 20.0)"),
        ("times", "0.123x", "0.123 (0.1 to 0.2)"),
        ("nats", "0.123 nats", "0.123 (0.1 to 0.2)"),
        ("plain", "0.123", "0.123 (0.1 to 0.2)"),
    ],
)
def test_a_value_is_said_in_its_unit(unit, words: str, cell: str) -> None:
    each = Quantity(unit, "lower")
    assert each.words(0.1234) == words
    assert each.cell(0.1234, (0.1, 0.2)) == cell


def test_a_share_without_an_interval_has_two_decimal_places() -> None:
    assert Quantity("percent", "lower").cell(0.1, None) == "10.00"
    assert Quantity("nats", "lower").cell(0.1, None) == "0.1"
