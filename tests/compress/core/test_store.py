"""The store: whole or not at all, verified on read, safe to share."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from compress.core.locks import EXCLUSIVE, SHARED, Lock
from compress.core.settings import InputError, digest
from compress.core.store import Damage, Store

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


def made(root: Path, *keys: str) -> Store:
    """A store that holds these artifacts, none of them in use."""
    store = Store(root).prepare()
    for key in keys:
        store.make(key, MADE_BY, write_seven, print)
    store.release()
    return store


def edit_entry(store: Store, artifact: str, **changes: Any) -> None:
    """Change what entry.json says, without its hash, which early versions did not write."""
    path = store.root / "artifacts" / artifact / "entry.json"
    value = {**json.loads(path.read_text()), **changes}
    value.pop("sha256", None)
    path.write_text(json.dumps(value))


HASH = "0" * 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "other"}, "it belongs to 'other'"),
        ({"made_by": []}, "made_by, notes or files is not a mapping"),
        ({"notes": None}, "made_by, notes or files is not a mapping"),
        ({"made_by": {}}, "it does not say which pass made it"),
        ({"made_by": {"pass": 3}}, "it does not say which pass made it"),
        ({"more": 1}, "it has the keys ['files', 'key', 'made_by', 'more', 'notes']"),
        ({"files": {"../k/data": [HASH, 5]}}, "file '../k/data' does not lie inside the artifact"),
        ({"files": {"/etc/passwd": [HASH, 5]}}, "file '/etc/passwd' does not lie inside the artifact"),
        ({"files": {"": [HASH, 5]}}, "file '' does not lie inside the artifact"),
        ({"files": {"data": [HASH]}}, f"file 'data': ['{HASH}'] is not a hash and a size"),
        ({"files": {"data": [HASH, True]}}, f"file 'data': ['{HASH}', True] is not a hash and a size"),
        ({"files": {"data": [HASH, -5]}}, f"file 'data': ['{HASH}', -5] is not a hash and a size"),
        ({"files": {"data": ["0", 5]}}, "file 'data': ['0', 5] is not a hash and a size"),
    ],
)
def test_an_entry_is_read_strictly(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    store = made(tmp_path, "k")
    edit_entry(store, "k", **changes)
    with pytest.raises(Damage, match=re.escape(reason)):
        store.find("k")
    assert [row["pass"] for row in store.rows()] == ["(damaged)"]
    assert store.makers() == []
    assert not store.make("k", MADE_BY, write_seven, print)[1]
    assert store.find("k") is not None


@pytest.mark.parametrize("text", ["[]", "3", '"entry"', "{", "", "[" * 200, '{"key": 1e999}', '{"a": 1, "a": 2}'])
def test_an_entry_that_is_no_mapping_is_damaged(tmp_path: Path, text: str) -> None:
    store = made(tmp_path, "k")
    (tmp_path / "artifacts" / "k" / "entry.json").write_text(text)
    assert [(row["pass"], row["size_bytes"]) for row in store.rows()] == [("(damaged)", 5 + len(text))]
    assert not store.make("k", MADE_BY, write_seven, print)[1]


def test_an_entry_of_an_early_version_is_read_and_a_changed_one_is_found(tmp_path: Path) -> None:
    store = made(tmp_path, "k")
    edit_entry(store, "k")
    assert store.find("k") is not None
    store = made(tmp_path / "other", "k")
    path = tmp_path / "other" / "artifacts" / "k" / "entry.json"
    path.write_text(path.read_text().replace('"count": 7', '"count": 8'))
    with pytest.raises(Damage, match=r"entry\.json: its content is not what was written"):
        store.find("k")


def test_an_artifact_in_place_of_another_is_made_again(tmp_path: Path) -> None:
    store, said = made(tmp_path, "a", "b"), []
    for put in (lambda: shutil.copytree(tmp_path / "artifacts" / "b", tmp_path / "artifacts" / "a"),
                lambda: (tmp_path / "artifacts" / "a").symlink_to("b")):  # fmt: skip
        shutil.rmtree(tmp_path / "artifacts" / "a")
        put()
        assert not store.make("a", MADE_BY, write_seven, said.append)[1]
        store.release()
        assert said.pop() == "store: a: entry.json: it belongs to 'b'; made again"
    assert store.find("b") is not None


@pytest.mark.parametrize("name", ["data", "entry.json"])
def test_a_pipe_in_place_of_a_file_is_damaged_and_not_waited_for(tmp_path: Path, name: str) -> None:
    store = made(tmp_path, "k")
    (tmp_path / "artifacts" / "k" / name).unlink()
    os.mkfifo(tmp_path / "artifacts" / "k" / name)
    with pytest.raises(Damage):
        store.find("k")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"value": {"value": 1}}', '{"key": "m", "sha256": "0", "value": {"value": 1}}', None],
    ids=["cut", "list", "no key", "hash", "another one's"],
)
def test_a_damaged_measurement_is_said_and_measured_again(tmp_path: Path, text: str | None) -> None:
    store, said = Store(tmp_path).prepare(), []
    store.measurement("m", lambda: {"value": 1})
    store.measurement("other", lambda: {"value": 3})
    path = tmp_path / "measurements" / "m.json"
    path.write_text((tmp_path / "measurements" / "other.json").read_text() if text is None else text)
    assert store.damaged() == ["measurements/m.json"]
    assert store.measurement("m", lambda: {"value": 2}, said.append) == {"value": 2}
    assert said == ["store: measurement m is damaged; measured again"]
    assert store.damaged() == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"recipe": 3, "keys": []}', '{"recipe": "r", "keys": [1]}'])
def test_a_damaged_user_is_named_and_needs_nothing(tmp_path: Path, text: str) -> None:
    store = made(tmp_path, "k")
    (tmp_path / "users" / "u.json").write_text(text)
    assert store.users() == {}
    assert store.damaged() == ["users/u.json"]
    assert [row["needed_by"] for row in store.rows()] == [[]]


def test_a_recipe_that_cannot_be_looked_at_still_needs_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path / "store", "k")
    store.note_user(tmp_path / "gone.yaml", ["k"])
    assert store.users() == {}

    def private(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", private)
    assert store.users() == {"k": [str(tmp_path / "gone.yaml")]}


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


def test_collection_removes_links_and_never_follows_them(tmp_path: Path) -> None:
    store = made(tmp_path / "store", "k")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    drafts, artifacts = store.root / "drafts", store.root / "artifacts"
    (drafts / "abc-1").symlink_to(tmp_path / "precious")
    (drafts / "gone-2").symlink_to(tmp_path / "nowhere")
    (drafts / "-3").write_text("")
    (drafts / "..-4").mkdir()
    (drafts / "full-5").mkdir()
    (drafts / "full-5" / "inside").symlink_to(tmp_path / "precious")
    shutil.move(artifacts / "k", tmp_path / "moved")
    (artifacts / "k").symlink_to(tmp_path / "moved")
    (artifacts / "dangling").symlink_to(tmp_path / "nowhere")
    (artifacts / "stray").write_text("a file")
    assert {row["key"] for row in store.rows()} == {"k", "dangling", "stray"}
    assert {row["key"] for row in store.collect(0)} >= {"k", "stray"}
    assert {path.name for path in artifacts.iterdir()} <= {"dangling"}
    assert list(drafts.iterdir()) == []
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert (tmp_path / "moved" / "data").read_text() == "seven"


def test_what_may_not_be_deleted_is_said_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, said, rename = made(tmp_path, "a", "b"), [], Path.rename

    def refuses(path: Path, target: Path) -> Path:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuses)
    assert [row["key"] for row in store.collect(0, said.append)] == ["b"]
    assert said == ["store: a cannot be deleted (Permission denied); left"]


def test_a_hard_linked_copy_of_a_store_is_a_store(tmp_path: Path) -> None:
    made(tmp_path / "store", "k")
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=os.link)
    copy = Store(tmp_path / "copy").prepare()
    assert copy.make("k", MADE_BY, write_seven, print)[1]
    copy.measurement("m", lambda: {"value": 1})
    assert not (tmp_path / "store" / "measurements" / "m.json").exists()


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no folder be writable, which to root every folder is."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)


def test_a_store_that_may_only_be_read_serves_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "k").measurement("m", lambda: {"value": 1})
    before = sorted(tmp_path.rglob("*"))
    read_only(monkeypatch)
    store = Store(tmp_path).prepare(["k"])
    assert store.make("k", MADE_BY, write_seven, print)[1]
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 1}
    store.note_user(tmp_path / "r.yaml", ["k"])
    with pytest.raises(InputError, match=r"may only be read, and other is not in it, or damaged; choose another"):
        store.make("other", MADE_BY, write_seven, print)
    with pytest.raises(InputError, match="may only be read, and a measurement is not in it; choose another"):
        store.measurement("other", lambda: pytest.fail("measured in vain"))
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\); choose another with --store"):
        Store(tmp_path).prepare(["k", "other"])
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} <= {"other"}


def test_a_lock_file_that_cannot_be_made_is_one_line_or_no_lock(tmp_path: Path, monkeypatch) -> None:
    store = Store(tmp_path).prepare()

    def refused(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("compress.core.locks.opened", refused)
    with pytest.raises(InputError, match=r"locks/k: cannot be written \(Permission denied\)"):
        store.make("k", MADE_BY, write_seven, print)
    store.writable = False
    with store.locked("k", print):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def missing(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(InputError, match=r"locks/format: this file system has no locks \(.*\), so two runs could harm"):
        Store(tmp_path).prepare()


def test_a_lock_file_of_another_user_is_locked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "lock", os.open
    path.touch()

    def only_reading(name: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(name, flags, mode)

    monkeypatch.setattr(os, "open", only_reading)
    first, second = Lock(path), Lock(path)
    assert first.take(EXCLUSIVE, wait=None)
    assert not second.take(SHARED, wait=None)
    first.release()
    assert second.take(SHARED, wait=None)


def test_files_have_the_permissions_that_the_root_gives_its_group(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o077)
    try:
        store = made(root, "k")
        store.measurement("m", lambda: {"value": 1})
        store.workspace("w")
    finally:
        os.umask(before)
    modes = {path.relative_to(root).as_posix(): path.stat().st_mode & 0o070 for path in root.rglob("*")}
    assert {name for name, mode in modes.items() if mode == 0o070} == {
        *("artifacts", "drafts", "work", "measurements", "users", "locks"), "artifacts/k", "work/w"
    }  # fmt: skip
    assert {name for name, mode in modes.items() if mode != 0o070} == {
        name for name, mode in modes.items() if mode == 0o060
    }
    private = made(tmp_path / "private", "k").root
    private.chmod(0o700)
    made(private, "other")
    assert (private / "artifacts" / "other").stat().st_mode & 0o020 == 0


def test_an_artifact_that_this_user_may_not_read_is_one_line_and_left(tmp_path: Path, monkeypatch) -> None:
    store = made(tmp_path, "k")

    def private(path: Path) -> None:
        raise InputError("private") from PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("compress.core.records.read_json", private)
    with pytest.raises(InputError, match=r"entry\.json: cannot be read \(Permission denied\); it belongs to another"):
        store.make("k", MADE_BY, write_seven, print)
    assert (tmp_path / "artifacts" / "k" / "data").exists()
    assert [(row["pass"], row["size_bytes"]) for row in store.rows()] == [("(private)", 0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2\n", "is of format 2, which a newer version wrote; this one reads 1: update compress"),
        ("two", "format: 'two' is not the number of a store's format; it should be 1"),
    ],
)
def test_a_store_of_another_format_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    made(tmp_path, "k")
    (tmp_path / "format").write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        Store(tmp_path).prepare()
    with pytest.raises(InputError, match=re.escape(said)):
        Store(tmp_path).check()


def test_a_file_in_place_of_a_store_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    for open_store in (Store.check, Store.prepare):
        with pytest.raises(InputError, match="store: is a file, not a folder; choose another with --store"):
            open_store(Store(tmp_path / "store"))


def test_a_store_on_several_disks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real = Store(tmp_path).prepare(), Path.stat

    def elsewhere(path: Path, **options: Any) -> os.stat_result:
        found = real(path, **options)
        return os.stat_result((*found[:2], 99 if path.name == "drafts" else 1, *found[3:10]))

    monkeypatch.setattr(Path, "stat", elsewhere)
    with pytest.raises(InputError, match="its folders lie on several disks; move or link all of it to one"):
        store.prepare()


def test_notes_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    notes = {"best": math.inf, "log": [{"loss": math.nan, "step": 1}]}
    entry, _ = Store(tmp_path).prepare().make("k", MADE_BY, lambda folder: notes, print)
    assert entry.notes == {"best": None, "log": [{"loss": None, "step": 1}]}


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


def test_a_measurement_from_before_records_named_their_key_is_still_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    path = tmp_path / "measurements" / "m.json"
    path.write_text(json.dumps({"sha256": digest({"value": 1}), "value": {"value": 1}}))
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 1}
    path.write_text(json.dumps({"sha256": digest({"value": 1}), "value": {"value": 9}}))
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 2}


def test_a_measurement_that_another_user_keeps_private_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def private(path: Path, key: str) -> dict[str, Any]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("compress.core.records.read_measurement", private)
    store = Store(tmp_path)
    store.prepare()
    with pytest.raises(InputError, match=r"m\.json: another user keeps it private; choose another store with --store"):
        store.measurement("m", lambda: {"value": 2})


def test_collection_takes_what_is_no_artifact_however_much_may_stay(tmp_path: Path) -> None:
    store = made(tmp_path / "store", "good")
    link, target = store.root / "artifacts" / ("f" * 64), tmp_path / "elsewhere"
    target.mkdir()
    link.symlink_to(target)
    assert [row["key"] for row in store.collect(10**9)] == [link.name]
    assert not link.is_symlink()
    assert target.is_dir()
    assert [row["key"] for row in store.rows()] == ["good"]
