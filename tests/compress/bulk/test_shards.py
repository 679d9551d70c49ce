"""Shards are the same bytes at any time, and whole or not there."""

from __future__ import annotations

import os
import tarfile
import time

import pytest

from compress.bulk.shards import Member, packed, publish, remove_drafts

MEMBERS = [Member("1.json", b"{}"), Member("1.png", b"picture")]


def test_equal_files_make_equal_bytes_at_any_time_for_any_user(monkeypatch) -> None:
    before = packed(MEMBERS)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    monkeypatch.setattr(os, "getuid", lambda: 7)
    assert packed(MEMBERS) == before


def test_a_shard_is_a_tar_file_or_a_folder(tmp_path) -> None:
    content = packed(MEMBERS)
    publish(content, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        found = archive.getmembers()
        assert [(each.name, each.mtime, each.uid, each.gid, each.uname, each.mode) for each in found] == [
            ("1.json", 0, 0, 0, "", 0o644),
            ("1.png", 0, 0, 0, "", 0o644),
        ]
        assert archive.extractfile("1.png").read() == b"picture"
    publish(content, tmp_path / "b")
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == dict(MEMBERS)
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b"]


@pytest.mark.parametrize("name", ["a.tar", "b"])
def test_what_fails_leaves_nothing_and_no_draft(tmp_path, monkeypatch, name: str) -> None:
    for module in ("compress.bulk.shards", "compress.core.durable"):
        monkeypatch.setattr(f"{module}.move", lambda draft, place: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        publish(packed(MEMBERS), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_drafts_of_a_killed_job_are_removed(tmp_path) -> None:
    (tmp_path / ".draft-a.tar-1").touch()
    (tmp_path / ".draft-b-1").mkdir()
    (tmp_path / ".draft-b-1" / "x").touch()
    (tmp_path / "a.tar").touch()
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == ["a.tar"]
