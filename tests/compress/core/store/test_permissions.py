"""Stores that may only be read, of another user, on a full disk, or without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Any

import pytest
from small_stores import MADE_BY, made, write_seven

from compress.core.locks import EXCLUSIVE, SHARED, Lock
from compress.core.settings import InputError
from compress.core.store import Store


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
