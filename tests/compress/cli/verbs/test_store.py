"""The command `store`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_store_lists_what_it_holds_and_who_needs_it(finished, invoke: Callable[..., Result]) -> None:
    rows = json.loads(invoke("store", "list", "--store", finished.store, "--json").stdout)
    assert len(rows) == 7
    assert {row["pass"] for row in rows} == {"prune-heads", "distill", "quantize", "export"}
    assert "7 artifacts" in invoke("store", "list", "--store", finished.store).stdout


def test_a_store_that_is_not_there_is_empty_and_stays_away(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("store", "list", "--store", tmp_path / "none")
    assert result.exit_code == 0
    assert "0 artifacts" in " ".join(result.stdout.split())
    assert not (tmp_path / "none").exists()


def test_store_gc_deletes_until_it_is_small_enough(finished, invoke: Callable[..., Result]) -> None:
    deleted = json.loads(invoke("store", "gc", "--max-size", "100kB", "--store", finished.store, "--json").stdout)
    left = json.loads(invoke("store", "list", "--store", finished.store, "--json").stdout)
    assert len(deleted) + len(left) == 7
    assert sum(row["size_bytes"] for row in left) <= 100_000
    assert "deleted" in invoke("store", "gc", "--max-size", "0", "--store", finished.store).stdout
    assert list((finished.store / "artifacts").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "store 's3://': names no bucket or folder; write s3://bucket/prefix"),
        ("nosuch://b/p", "store nosuch://b/p: no file system is called 'nosuch'; use a path or s3://bucket/prefix"),
        ("a::s3://b/p", "store 'a::s3://b/p': is neither a path nor a URL like s3://bucket/prefix"),
    ],
)
def test_a_url_of_no_store_is_one_line(url: str, said: str, refused: Callable[..., str]) -> None:
    for verb in (("list",), ("gc", "--max-size", 0), ("gc", "--max-size", 0, "--dry-run")):
        assert refused("store", *verb, "--store", url) == said


def test_an_empty_store_at_a_url_is_listed_and_nothing_is_made(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = invoke("store", "list", "--store", f"file://{tmp_path}/none/")
    assert result.exit_code == 0, result.output
    assert f"file://{tmp_path}/none:0artifacts" in "".join(result.stdout.split())
    assert [*tmp_path.iterdir()] == []
