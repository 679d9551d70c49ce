"""Objects that are files."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from compress.core.store import object_files as module
from compress.core.store.failures import StoreError
from compress.core.store.object_files import objects_at


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = objects_at(f"file://{tmp_path}/store", tmp_path)
    objects.write("x", b"before")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.durable, "sync", full)
    (tmp_path / "source").write_bytes(b"after")
    attempts = (
        lambda: objects.write("x", b"after"), lambda: objects.create("y", b"after"),
        lambda: objects.upload(tmp_path / "source", "z"),
    )  # fmt: skip
    for attempt in attempts:
        with pytest.raises(StoreError, match="is full"):
            attempt()
    assert [*objects.listed("")] == ["x"]
    assert objects.read("x") == b"before"
