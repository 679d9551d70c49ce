"""What --store may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.store.places import kept_here, store_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("S3://bucket", "s3://bucket"),
        ("file:///data/store", "file:///data/store"),
        ("memory://x", "memory://x"),
        (".compress", Path(".compress")),
        (Path("a/b"), Path("a/b")),
        ("a:/b", Path("a:/b")),
    ],
)
def test_a_store_is_a_path_or_a_url_without_a_slash_at_its_end(text: str | Path, place: str | Path) -> None:
    assert store_place(text) == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://", "store 's3://': names no bucket or folder; write s3://bucket/prefix"),
        ("file:///", "names no bucket or folder"),
        ("file://data", "store 'file://data': must name a folder from the root, as file:///data/store does"),
        ("simplecache::s3://b/p", "is neither a path nor a URL like s3://bucket/prefix"),
        ("s3://b/p::zip", "may only name a bucket and a prefix, as s3://bucket/prefix does"),
        ("s3://key:secret@b/p", "may only name a bucket and a prefix"),
        ("s3://b/p?versionId=3", "may only name a bucket and a prefix"),
        ("s3://b/p\n", "may only name a bucket and a prefix"),
        (Path("s3://bucket/p"), "store 's3:/bucket/p': is neither a path nor a URL like s3://bucket/prefix"),
    ],
)
def test_what_is_neither_is_one_line(text: str | Path, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        store_place(text)


def test_copies_lie_in_the_users_cache_one_folder_for_each_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = kept_here("s3://bucket/a-b"), kept_here("s3://bucket/a/b")
    assert first.parent == second.parent == tmp_path / "compress"
    assert first.name.startswith("s3-bucket-a-b-")
    assert first != second
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_here("s3://b").parent == tmp_path / ".cache" / "compress"
