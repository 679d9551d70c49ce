"""What goes first where a store is too large, what stays, and whose it is."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from compress.core.store import Store


def write_five(folder: Path) -> dict[str, Any]:
    (folder / "data").write_text("seven")
    return {}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text("")
    return tmp_path / "r.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of four artifacts, the first of them least recently used, none of them in use."""
    store = Store(tmp_path / "store").prepare()
    for age, key in enumerate(["begun", "finished", "old", "new"]):
        store.make(key, {"pass": "test"}, write_five, print)
        os.utime(store.root / "artifacts" / key, (1000 + age, 1000 + age))
    store.release()
    return store


def interrupted(store: Store, recipe: Path, *keys: str) -> None:
    """Leave what a killed run leaves: its record, and no lock."""
    store.begin(recipe, keys)
    store.release()


def test_artifacts_of_interrupted_work_are_the_last_to_go(store: Store, recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("")
    interrupted(store, recipe, "begun", "not made yet")
    store.note_user(other, ["finished"])
    gone = [[row["key"] for row in store.collect(most)] for most in (10, 5, 0)]
    assert gone == [["old", "new"], ["finished"], ["begun"]]


def test_what_a_running_process_still_needs_is_never_deleted(store: Store, recipe: Path) -> None:
    run, said = Store(store.root).prepare(), []
    run.begin(recipe, ["begun"])
    assert [row["key"] for row in store.collect(0, said.append)] == ["finished", "old", "new"]
    whose = f"{recipe} ({socket.gethostname()}, process {os.getpid()})"
    assert said == [f"store: begun is needed by a run of {whose}; left"]
    run.release()
    assert [row["key"] for row in store.collect(0)] == ["begun"]


def test_the_list_says_whose_an_artifact_is_and_whether_the_run_lives(store: Store, recipe: Path) -> None:
    run = Store(store.root).prepare()
    run.begin(recipe, ["begun"])

    def work() -> dict[str, Any]:
        ((one, *more),) = [row["work"] for row in store.rows() if row["work"]]
        assert not more
        assert one.pop("since") > 1e9
        return one

    mine = {"recipe": str(recipe), "host": socket.gethostname(), "pid": os.getpid()}
    assert work() == {"state": "running", **mine}
    run.release()
    assert work() == {"state": "interrupted", **mine}
    run.begin(recipe, ["begun"])
    run.note_user(recipe, ["begun"])
    assert [(row["needed_by"], row["work"]) for row in store.rows() if row["needed_by"]] == [([str(recipe)], [])]


def test_a_run_that_goes_on_needs_what_the_interrupted_one_needed(store: Store, recipe: Path) -> None:
    interrupted(store, recipe, "begun")
    interrupted(store, recipe, "new")
    assert {row["key"] for row in store.rows() if row["work"]} == {"begun", "new"}
    store.note_user(recipe, ["new"])
    assert {row["key"] for row in store.rows() if row["needed_by"]} == {"new"}


def test_a_dry_run_deletes_nothing_and_names_what_would_go(store: Store, recipe: Path) -> None:
    (store.root / "drafts" / "killed-1").mkdir()
    interrupted(store, recipe, "begun")
    before, said = sorted(store.root.rglob("*")), []
    run = Store(store.root).prepare()
    run.make("new", {"pass": "test"}, write_five, print)
    assert [row["key"] for row in store.collect(5, said.append, dry_run=True)] == ["finished", "old", "begun"]
    assert said == ["store: new is in use by a run; left"]
    assert sorted(store.root.rglob("*")) == before
    run.release()


def test_a_recipe_on_another_host_is_not_looked_for_here(store: Store) -> None:
    user = {"recipe": "/elsewhere/r.yaml", "keys": ["old"]}
    for host, needed in (("another-host", ["/elsewhere/r.yaml"]), (socket.gethostname(), [])):
        (store.root / "users" / "u.json").write_text(json.dumps({**user, "host": host}))
        assert [row["needed_by"] for row in store.rows() if row["key"] == "old"] == [needed]


@pytest.mark.parametrize("wrong", [{"host": 3}, {"pid": "x"}, {"since": None}, {"finished": 0}])
def test_a_record_of_a_recipe_with_a_wrong_value_is_damaged(store: Store, wrong: dict[str, Any]) -> None:
    (store.root / "users" / "u.json").write_text(json.dumps({"recipe": "r", "keys": [], **wrong}))
    assert store.damaged() == ["users/u.json"]
    assert store.users() == {}


@pytest.mark.parametrize(("mask", "modes"), [(0o022, (0o644, 0o755)), (0o077, (0o600, 0o700)), (0o002, (0o664, 0o775))])
def test_files_and_folders_have_the_modes_of_the_umask_whatever_a_library_gives_them(
    tmp_path: Path, mask: int, modes: tuple[int, int]
) -> None:
    def private(folder: Path) -> dict[str, Any]:
        descriptor, name = tempfile.mkstemp(dir=tempfile.mkdtemp(dir=folder))
        os.close(descriptor)
        assert Path(name).stat().st_mode & 0o777 == 0o600
        return {}

    before = os.umask(mask)
    try:
        store = Store(tmp_path / "store").prepare()
        folder = store.make("k", {"pass": "test"}, private, print)[0].folder
    finally:
        os.umask(before)
    found = {path.is_dir(): path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert (found[False], found[True]) == modes


def test_gc_has_a_dry_run_and_the_table_says_whose(store: Store, recipe: Path, invoke: Callable[..., Result]) -> None:
    interrupted(store, recipe, "begun")
    arguments = ("store", "gc", "--max-size", 0, "--dry-run", "--store", store.root)
    assert [row["key"] for row in json.loads(invoke(*arguments, "--json").stdout)] == [
        "finished", "old", "new", "begun"
    ]  # fmt: skip
    table = invoke(*arguments).stdout
    assert "would delete 4 artifacts" in table
    words = re.sub(r"\W+", " ", table)
    assert "interrupted" in words
    assert len([*(store.root / "artifacts").iterdir()]) == 4


def test_a_dry_run_of_a_store_that_is_not_there_makes_none(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke("store", "gc", "--max-size", 0, "--dry-run", "--store", tmp_path / "none")
    assert result.exit_code == 0
    assert not (tmp_path / "none").exists()
