"""How a command and its workers meet: the store is where both are, and lines say of which task they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core import listener
from compress.core.settings import InputError
from compress.core.store import Store
from compress.running import meeting


def test_a_store_that_is_not_where_the_workers_are_is_refused(tmp_path: Path) -> None:
    said = rf"^store {tmp_path}/none: is not on the machines of the cluster; give --store a folder that every machine "
    with pytest.raises(InputError, match=said + r"mounts at the same path, or a URL such as s3://bucket/prefix$"):
        meeting.Looking(meeting.Mark(str(tmp_path / "none"), ".seen-1"))(print)
    store = Store(tmp_path / "store").prepare()
    with meeting.seen(store) as mark:
        meeting.Looking(mark)(print)(None)
    assert not list(store.root.glob(".seen-*"))
    with meeting.seen(Store("memory://store")) as mark:
        assert mark == meeting.Mark("memory://store")


def test_lines_say_of_which_task_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    telling = meeting.Telling(lines.append)
    telling.task = "engine cpu"
    telling.say("made")
    clock = iter([0.0, 1.0, 11.0, 11.0, 12.0])
    monkeypatch.setattr(listener.time, "monotonic", lambda: next(clock))
    with telling.work("train") as progress:
        progress(1, 9, {})
        progress(2, 9, {"loss": 0.25})
        progress(3, 9, {})
    assert lines == ["engine cpu: made", "engine cpu:   train: 2 of 9  loss 0.25"]
