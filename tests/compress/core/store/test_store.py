"""The store: whole or not at all, verified on read, safe to share."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_stores import MADE_BY, write_seven

from compress.core.store import Store


def test_an_artifact_is_made_once_and_then_reused(tmp_path: Path) -> None:
    store, said = Store(tmp_path).prepare(), []
    first, reused_first = store.make("k", MADE_BY, write_seven, said.append)
    second, reused_second = store.make("k", MADE_BY, lambda folder: pytest.fail("made twice"), said.append)
    assert (reused_first, reused_second) == (False, True)
    assert first.folder == second.folder
    assert second.notes == {"count": 7}
    assert second.size_bytes == 5
    assert said == []


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()

    def broken(folder: Path) -> dict[str, int]:
        (folder / "data").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("k", MADE_BY, broken, print)
    assert store.find("k") is None
    assert list((tmp_path / "drafts").iterdir()) == []


def test_measurements_are_kept_apart_and_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    assert store.measurement("m", lambda: {"value": 1}) == {"value": 1}
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 1}
