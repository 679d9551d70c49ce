"""Keeping a process on few processors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress.measure.speed.pinning import pinned, processors


def topology(folder: Path, siblings: dict[int, str]) -> Path:
    for number, text in siblings.items():
        (folder / f"cpu{number}" / "topology").mkdir(parents=True)
        (folder / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(text + "\n")
    return folder


def test_physical_cores_come_before_their_siblings(tmp_path: Path) -> None:
    found = topology(tmp_path, {0: "0,1", 1: "0,1", 2: "2,3", 3: "2,3"})
    assert processors([0, 1, 2, 3], 2, found) == [0, 2]
    assert processors([0, 1, 2, 3], 3, found) == [0, 1, 2]
    assert processors([1, 3], 4, found) == [1, 3], "only what is allowed"


def test_without_a_topology_processors_are_cores(tmp_path: Path) -> None:
    assert processors([4, 5, 6], 2, tmp_path) == [4, 5]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins")
def test_a_process_is_free_again_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as chosen:
        assert os.sched_getaffinity(0) == set(chosen)
        assert len(chosen) == 1
    assert os.sched_getaffinity(0) == before
