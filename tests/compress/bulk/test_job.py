"""Shards of a job, and labels from a file."""

from __future__ import annotations

import numpy as np
import pytest

from compress.bulk.job import Conditions, read_labels, shard_size
from compress.core.settings import InputError


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


def test_labels_stand_on_lines_or_behind_commas(tmp_path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("3\n\n 1, 4\r\n1,\n")
    assert read_labels(path).tolist() == [3, 1, 4, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no labels; write one on each line"),
        ("3\n1 4\n", "2: '1 4' is not a class; write a whole number"),
        ("-1", "1: '-1' is not a class; write a whole number"),
        ("²", "1: '²' is not a class; write a whole number"),
        ("1" * 10, f"1: '{'1' * 10}' is not a class; write a whole number"),
    ],
)
def test_what_is_no_file_of_labels_is_refused(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_labels(path)
    assert str(error.value).removeprefix(f"--labels-file: {path}:").strip() == said
