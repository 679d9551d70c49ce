"""Processes that work together: one value, faults in a line, and a new start for all when one dies."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from jobs_of_gangs import counted, faulty, mortal, patient

from compress.core.settings import InputError
from compress.workers import gang
from compress.workers.gang import together


def ignored(content: object) -> None:
    """Hear nothing."""


def test_the_value_is_the_first_one_s_and_what_it_says_is_heard() -> None:
    heard: list[object] = []
    rank, size, url = together(counted, 2, heard.append, ignored)
    assert (rank, size, heard) == (0, 2, [("begun", 2)])
    assert url.startswith("file:///")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_is_said_by_the_process_whose_it_is(rank: int) -> None:
    with pytest.raises(InputError, match=r"^the batch is wrong$"):
        together(partial(faulty, InputError("the batch is wrong"), rank), 2, ignored, ignored)


def test_an_unexpected_fault_is_no_input_error() -> None:
    with pytest.raises(RuntimeError, match=r"^KeyError: 'what'$"):
        together(partial(faulty, KeyError("what"), 1), 2, ignored, ignored)


def test_all_start_again_when_one_was_killed(tmp_path: Path) -> None:
    said: list[str] = []
    assert together(partial(mortal, tmp_path, 1), 2, ignored, said.append) == "done"
    (line,) = said
    assert line.startswith("process 1 of 2 (")
    assert line.endswith(") was killed by SIGKILL; all 2 processes go on from the last checkpoint")


def test_nothing_is_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gang, "RESTARTS", 1)
    with pytest.raises(InputError, match=r"was killed by SIGKILL; started again 1 times, and given up; what was fin"):
        together(partial(mortal, tmp_path, 9), 2, ignored, ignored)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interruption_lets_the_first_process_keep_what_it_has(tmp_path: Path) -> None:
    def interrupt(content: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(partial(patient, tmp_path / "checkpoint"), 2, interrupt, ignored)
    assert (tmp_path / "checkpoint").read_text() == "kept"
