"""What this process holds of the machine's memory, against what was taken and given back."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from compress.core import memory
from compress.core.memory import give_back, resident_mib, watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")


def test_growth_is_the_peak_inside_of_the_block_above_what_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = threading.Semaphore(0)

    def look() -> float:
        found = resident_mib()
        looks.release()
        return found

    monkeypatch.setattr(memory, "resident_mib", look)
    with watched() as growth:
        taken = np.ones(2**24)  # 128 MiB
        while looks.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun while pages were still being filled
            assert looks.acquire(timeout=60), "memory is not looked at while the block runs"
        del taken
    assert 120 < growth.mib < 160
    with watched() as growth:
        pass
    assert growth.mib < 20


def test_freed_memory_is_given_back() -> None:
    kept, pieces = [], []
    for _ in range(3000):  # small ones are of the heap, and those in between keep it from shrinking by itself
        pieces.append(bytearray(2**15))
        kept.append(bytearray(2**6))
    before = resident_mib()
    pieces.clear()
    give_back()
    assert resident_mib() < before - 60


def test_where_the_system_does_not_say_it_memory_is_0(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "STATM", tmp_path / "none")
    assert resident_mib() == 0
    with watched() as growth:
        pass
    assert growth.mib == 0
