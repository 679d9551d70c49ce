"""Singular and plural."""

import pytest

from export.runtime.counted import counted, of_number


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "picture", "1 picture"),
        (0, "picture", "0 pictures"),
        (2, "breach", "2 breaches"),
        (1024, "class", "1024 classes"),
        (3, "entry", "3 entries"),
        (2, "day", "2 days"),
        (2, "box", "2 boxes"),
    ],
)
def test_a_noun_follows_its_number(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said


def test_a_plural_that_follows_no_rule_is_given() -> None:
    assert of_number(2, "axis", "axes") == "axes"
    assert of_number(1, "axis", "axes") == "axis"
