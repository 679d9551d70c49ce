"""A folder holds pictures of one job, drawn by one process at a time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from compress.bulk.folder import claimed
from compress.bulk.job import Job
from compress.core.settings import InputError
from export.runtime.sampling import Sampler

JOB = Job("e" * 64, 7, 20, "c" * 64, Sampler(cfg_scale=1.5), "webdataset", 8, 4, 1, "default")


def refused(folder: Path, job: Job = JOB) -> str:
    with pytest.raises(InputError) as error, claimed(folder, job):
        pass
    return str(error.value)


def test_a_folder_is_made_and_the_same_job_may_go_on(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "a" / "b", JOB):
            (tmp_path / "a" / "b" / "shard-000000.tar").touch()
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".lock", "job.json", "shard-000000.tar"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 8}, "seed 7 and not 8"),
        ({"engine": "f" * 64}, f"engine '{'e' * 64}' and not '{'f' * 64}'"),
        ({"count": 21, "threads": 2}, "count 20 and not 21"),
        ({"sampler": Sampler(cfg_scale=1.5, top_k=3)}, "top_k 0 and not 3"),
        ({"format": "png"}, "format 'webdataset' and not 'png'"),
    ],
)
def test_pictures_of_another_job_are_left_alone(tmp_path: Path, change, said) -> None:
    with claimed(tmp_path, JOB):
        pass
    line = f"{tmp_path}: holds pictures of another job, with {said}; choose another folder with -o"
    assert refused(tmp_path, replace(JOB, **change)) == line


def test_a_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    said = f"{tmp_path}: holds 'thesis.tex' and no pictures of a job; choose an empty or a new folder with -o"
    assert refused(tmp_path) == said
    assert os.listdir(tmp_path) == ["thesis.tex"]
    (tmp_path / "job.json").write_text("[]")
    assert refused(tmp_path) == f"{tmp_path}/job.json: is no job of pictures; choose another folder with -o"


def test_only_one_process_draws_into_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path, JOB):
        said = f"{tmp_path}: another process draws into it; wait for it, or choose another folder with -o"
        assert refused(tmp_path) == said


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = f"{tmp_path}: cannot be written (Permission denied); what was finished is kept"
    assert refused(tmp_path) == said
    monkeypatch.undo()
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == f"{tmp_path}/file: cannot be written (File exists); what was finished is kept"
