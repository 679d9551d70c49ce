"""The store: whole or not at all, verified on read, safe to share."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from compress.settings import InputError
from compress.store import Damage, Store

MADE_BY = {"pass": "test"}


def write_seven(folder: Path) -> dict[str, int]:
    (folder / "data").write_text("seven")
    return {"count": 7}


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


@pytest.mark.parametrize("harm", ["change", "truncate", "remove", "entry"])
def test_a_damaged_artifact_is_found_said_and_made_again(tmp_path: Path, harm: str) -> None:
    store, said = Store(tmp_path).prepare(), []
    store.make("k", MADE_BY, write_seven, said.append)
    data = tmp_path / "artifacts" / "k" / "data"
    if harm == "change":
        data.write_text("eight")
    elif harm == "truncate":
        data.write_text("sev")
    elif harm == "remove":
        data.unlink()
    else:
        (tmp_path / "artifacts" / "k" / "entry.json").write_text("{")
    with pytest.raises(Damage):
        store.find("k")
    _, reused = store.make("k", MADE_BY, write_seven, said.append)
    assert not reused
    assert data.read_text() == "seven"
    assert len(said) == 1
    assert "made again" in said[0]


def test_a_full_disk_is_one_line_and_keeps_what_was_finished(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    store.make("done", MADE_BY, write_seven, print)

    def full(folder: Path) -> dict[str, int]:
        raise OSError(28, os.strerror(28))

    with pytest.raises(InputError, match="the disk is full; what was finished is kept, free space and run again"):
        store.make("k", MADE_BY, full, print)
    assert store.find("done") is not None


def test_a_store_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .*choose another with --store"):
        Store(tmp_path / "file" / "store").prepare()


def _make_slowly(root: Path, queue: multiprocessing.Queue) -> None:
    def slow(folder: Path) -> dict[str, int]:
        time.sleep(0.5)
        return write_seven(folder)

    queue.put(Store(root).prepare().make("k", MADE_BY, slow, lambda text: None)[1])


def test_two_runs_at_once_make_an_artifact_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    queue = spawn.Queue()
    runs = [spawn.Process(target=_make_slowly, args=(tmp_path, queue)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(queue.get() for _ in runs) == [False, True]


def test_collection_takes_what_no_recipe_needs_first_then_the_least_recently_used(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "store").prepare(), tmp_path / "r.yaml"
    recipe.write_text("")
    for age, key in enumerate(["needed", "old", "new"]):
        store.make(key, MADE_BY, write_seven, print)
        os.utime(store.root / "artifacts" / key, (1000 + age, 1000 + age))
    store.note_user(recipe, ["needed"])
    assert [row["key"] for row in store.collect(max_bytes=10)] == ["old"]
    assert [row["key"] for row in store.collect(max_bytes=5)] == ["new"]
    assert [(row["key"], row["needed_by"]) for row in store.rows()] == [("needed", [str(recipe)])]


def test_measurements_are_kept_apart_and_made_once(tmp_path: Path) -> None:
    store = Store(tmp_path).prepare()
    assert store.measurement("m", lambda: {"value": 1}) == {"value": 1}
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 1}
