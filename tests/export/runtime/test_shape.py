"""The names of classes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from export.runtime.drawing import classes_of
from export.runtime.request import wanted
from export.runtime.shape import Shape

ANIMALS = ("cat", "dog", "kiss: person, person", "3")
NAMED = Shape("causal", 16, 4, (2, 2), class_names=ANIMALS)
NUMBERED = Shape("causal", 16, 4, (2, 2))


def test_a_class_is_found_by_its_name_and_named_by_its_number() -> None:
    assert [NAMED.class_called(name) for name in ANIMALS] == [0, 1, 2, 3]
    assert [NAMED.class_name(label) for label in range(5)] == [*ANIMALS, ""]
    assert NUMBERED.class_name(2) == "2"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("a", "b"), "class_names has 2 names for 4 classes"),
        (("a", "b", "c", "a"), "class_names: 'a' stands there twice"),
        (("a", "b", "c", " "), "class_names: ' ' is no name"),
        (("a", "b", "c", "d\ne"), "class_names: 'd\\ne' is no name"),
        (("a", "b", "c", "d" * 201), "is no name; printable text of at most 200 letters is"),
    ],
)
def test_names_that_do_not_name_every_class_are_refused(names: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Shape("causal", 16, 4, (2, 2), class_names=names)


def test_labels_are_numbers_or_names() -> None:
    assert classes_of(["dog", 0, 4], NAMED).tolist() == [1, 0, 4]
    assert classes_of(np.array([1, 2]), NAMED).tolist() == [1, 2]
    with pytest.raises(ValueError, match="label 'dgo' is not a class; did you mean 'dog'"):
        classes_of(["dgo"], NAMED)
    with pytest.raises(ValueError, match="the classes of this model have numbers, no names"):
        classes_of(["dog"], NUMBERED)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("1, 0", [1, 0]),
        ("dog,cat", [1, 0]),
        ("kiss: person, person", [2]),
        ('"kiss: person, person", dog,2', [2, 1, 2]),
        ("3,2", [3, 2]),
    ],
)
def test_a_command_line_lists_numbers_and_names(labels: str, found: list[int]) -> None:
    assert wanted(NAMED, labels, None, None)[0].tolist() == found


@pytest.mark.parametrize(
    ("shape", "labels", "text"),
    [
        (NAMED, "cat,,dog", "--labels: label '' is not a class"),
        (NAMED, "cat,9", "--labels: label 9 is not a class; the model draws 0 to 3 (4 is unconditional)"),
        (NAMED, '"cat', "--labels: '\"cat' is not a list of classes separated by commas ("),
        (NUMBERED, "cat", "--labels: 'cat' is not a list of whole numbers like 3,1,4"),
        (NUMBERED, "1\n2", "--labels: '1\\n2' is not a list of classes separated by commas"),
    ],
)
def test_what_names_no_class_is_refused(shape: Shape, labels: str, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        wanted(shape, labels, None, None)
