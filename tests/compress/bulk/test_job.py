"""Shards of a job, and labels from a file."""

from __future__ import annotations

import numpy as np
import pytest

from compress.bulk.job import Conditions, Written, shard_size
from compress.core.settings import InputError
from export.runtime.shape import Shape


@pytest.mark.parametrize(
    ("batch", "count", "size"),
    [(32, 10**6, 1024), (4, 10**6, 1024), (3, 10**6, 1023), (32, 1000, 64), (32, 3, 32), (4096, 10**6, 4096)],
)
def test_a_shard_is_whole_batches_and_a_small_job_has_several(batch: int, count: int, size: int) -> None:
    assert shard_size(0, batch, count) == size
    assert shard_size(3 * batch, batch, count) == 3 * batch


@pytest.mark.parametrize(("asked", "near"), [(100, 96), (5, 32)])
def test_a_shard_of_other_than_whole_batches_is_refused(asked: int, near: int) -> None:
    with pytest.raises(InputError) as error:
        shard_size(asked, 32, 1000)
    assert str(error.value) == (
        f"--shard-size {asked}: is no multiple of the 32 pictures that are drawn at once; {near} is one"
    )


def test_conditions_are_gone_through_again() -> None:
    given = Conditions(np.array([3, 1, 4]), np.arange(3.0).reshape(3, 1, 1).astype(np.float32))
    part = given.of(5, 4)
    assert part.labels.tolist() == [4, 3, 1, 4]
    assert part.features.ravel().tolist() == [2, 0, 1, 2]
    assert given.sha256 != Conditions(given.labels).sha256 != Conditions(np.array([3, 1, 5])).sha256


NUMBERED = Shape("causal", 17, 10, (4, 4))
NAMED = Shape("causal", 17, 3, (4, 4), class_names=("dog", "cat, wild", "3"))


def test_labels_stand_on_lines_or_behind_commas(tmp_path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("3\n\n 1, 4\r\n1,\n")
    assert Written.of_file(path).classes(NUMBERED).tolist() == [3, 1, 4, 1]
    assert Written("3,1").classes(NUMBERED).tolist() == [3, 1]


def test_labels_may_be_names_as_those_of_one_sheet_are(tmp_path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text('dog\ncat, wild\n"cat, wild", dog\n3\n1\n')
    assert Written.of_file(path).classes(NAMED).tolist() == [0, 1, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ("", NUMBERED, "holds no labels; write one on each line"),
        ("3\n1 4\n", NUMBERED, "2: '1 4' is not a list of whole numbers like 3,1,4"),
        ("-1", NUMBERED, "1: label -1 is not a class; the model draws 0 to 9 (10 is unconditional)"),
        ("dog\ndig\n", NAMED, "2: label 'dig' is not a class; did you mean 'dog'?"),
        ('dog\n"dog\n', NAMED, "2: '\"dog' is not a list of classes separated by commas (unexpected end of data)"),
    ],
)
def test_what_is_no_file_of_labels_is_refused(tmp_path, text: str, shape: Shape, said: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((InputError, ValueError)) as error:
        Written.of_file(path).classes(shape)
    assert str(error.value).removeprefix(f"--labels-file: {path}:").strip() == said
