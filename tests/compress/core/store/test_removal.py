"""What collection takes from a store, and what it leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from small_stores import MADE_BY, made, write_seven

from compress.core.store import Store


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


def test_collection_takes_what_is_no_artifact_however_much_may_stay(tmp_path: Path) -> None:
    store = made(tmp_path / "store", "good")
    link, target = store.root / "artifacts" / ("f" * 64), tmp_path / "elsewhere"
    target.mkdir()
    link.symlink_to(target)
    assert [row["key"] for row in store.collect(10**9)] == [link.name]
    assert not link.is_symlink()
    assert target.is_dir()
    assert [row["key"] for row in store.rows()] == ["good"]
