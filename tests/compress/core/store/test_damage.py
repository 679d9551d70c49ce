"""What is damaged in a store is found, said, and made again."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_stores import MADE_BY, made, write_seven

from compress.core.settings import digest
from compress.core.store import Damage, Store


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


def test_a_hard_linked_copy_of_a_store_is_a_store(tmp_path: Path) -> None:
    made(tmp_path / "store", "k")
    shutil.copytree(tmp_path / "store", tmp_path / "copy", copy_function=os.link)
    copy = Store(tmp_path / "copy").prepare()
    assert copy.make("k", MADE_BY, write_seven, print)[1]
    copy.measurement("m", lambda: {"value": 1})
    assert not (tmp_path / "store" / "measurements" / "m.json").exists()


def test_notes_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    notes = {"best": math.inf, "log": [{"loss": math.nan, "step": 1}]}
    entry, _ = Store(tmp_path).prepare().make("k", MADE_BY, lambda folder: notes, print)
    assert entry.notes == {"best": None, "log": [{"loss": None, "step": 1}]}


def test_a_measurement_from_before_records_named_their_key_is_still_whole(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    path = tmp_path / "measurements" / "m.json"
    path.write_text(json.dumps({"sha256": digest({"value": 1}), "value": {"value": 1}}))
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 1}
    path.write_text(json.dumps({"sha256": digest({"value": 1}), "value": {"value": 9}}))
    assert store.measurement("m", lambda: {"value": 2}) == {"value": 2}
