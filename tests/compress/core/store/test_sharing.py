"""Several runs on one store, some of which are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path

from small_stores import MADE_BY, made, write_seven

from compress.core.store import Store


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


def test_collection_leaves_what_a_run_uses_until_it_lets_go(tmp_path: Path) -> None:
    made(tmp_path, "k", "other")
    run, said = Store(tmp_path).prepare(), []
    assert run.make("k", MADE_BY, write_seven, print)[1]
    assert [row["key"] for row in Store(tmp_path).prepare().collect(0, said.append)] == ["other"]
    assert said == ["store: k is in use by a run; left"]
    run.release()
    assert [row["key"] for row in Store(tmp_path).prepare().collect(0)] == ["k"]


def test_two_runs_use_an_artifact_at_once(tmp_path: Path) -> None:
    first, second, said = Store(tmp_path).prepare(), Store(tmp_path).prepare(), []
    for store in (first, second):
        store.make("k", MADE_BY, write_seven, said.append)
    assert said == []


def _hold_for_ever(root: Path, ready: multiprocessing.Event) -> None:
    with Store(root).prepare().locked("k", print):
        (root / "drafts" / f"k-{os.getpid()}").mkdir()
        ready.set()
        time.sleep(60)


def test_the_lock_and_the_draft_of_a_killed_run_are_no_hindrance(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    run = fork.Process(target=_hold_for_ever, args=(tmp_path, ready))
    run.start()
    assert ready.wait(20)
    store, said = Store(tmp_path).prepare(), []
    store.clear_drafts(print)
    assert len(list((tmp_path / "drafts").iterdir())) == 1
    run.kill()
    run.join()
    assert store.make("k", MADE_BY, write_seven, said.append)[0].notes == {"count": 7}
    assert said == []
    store.clear_drafts(print)
    assert list((tmp_path / "drafts").iterdir()) == []


def _make_for_ever(root: Path, ready: multiprocessing.Event) -> None:
    store = Store(root).prepare()
    ready.set()
    for number in range(1_000_000):
        store.make(f"k{number}", MADE_BY, write_seven, print)
        store.measurement(f"m{number}", lambda: {"value": 1})
        store.release()


def test_a_store_whose_run_is_killed_at_any_moment_holds_only_what_is_whole(tmp_path: Path) -> None:
    fork, chance, held = multiprocessing.get_context("fork"), random.Random(0), 0
    for _ in range(20):
        ready = fork.Event()
        run = fork.Process(target=_make_for_ever, args=(tmp_path, ready))
        run.start()
        assert ready.wait(20)
        time.sleep(chance.uniform(0, 0.05))
        run.kill()
        run.join()
        store = Store(tmp_path).prepare()
        keys = [row["key"] for row in store.rows()]
        assert all(store.find(key) is not None for key in keys)
        assert store.damaged() == []
        assert len(keys) >= held
        held = len(keys)
    store.collect(max_bytes=1 << 30)
    assert list((tmp_path / "drafts").iterdir()) == []
