"""A store that machines share: published by its index, copied where it is read, safe from what dies."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.core.locks import EXCLUSIVE
from compress.core.settings import InputError
from compress.core.store import Damage, Store, bucket
from compress.core.store.failures import StoreError
from compress.core.store.objects import Refused

Machine = Callable[..., Store]
Die = Callable[[Store], None]
Later = Callable[[Store, float], None]
MADE_BY = {"pass": "test"}


def write_seven(folder: Path) -> dict[str, Any]:
    """An artifact of two files, 5 bytes."""
    (folder / "inside").mkdir()
    (folder / "inside" / "data").write_text("seven")
    (folder / "empty").write_text("")
    return {"count": 7}


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("made twice")


def names(store: Store, folder: str = "artifacts") -> set[str]:
    return set(store.backend.objects.listed(folder))


def edited(store: Store, name: str, data: bytes) -> None:
    store.backend.objects.write(name, data)


def test_what_one_machine_made_another_one_reads(machine: Machine) -> None:
    first, second = machine("a").prepare(), machine("b").prepare()
    made, reused_first = first.make("k", MADE_BY, write_seven, print)
    read, reused_second = second.make("k", MADE_BY, never, print)
    assert (reused_first, reused_second) == (False, True)
    assert made.folder != read.folder
    assert {path.name for path in read.folder.rglob("*")} == {"inside", "data", "empty", "entry.json"}
    assert (read.folder / "inside" / "data").read_text() == "seven"
    assert (read.notes, read.made_by, read.size_bytes) == ({"count": 7}, MADE_BY, 5)
    assert second.contains("k")
    assert not second.contains("other")
    assert second.makers() == [MADE_BY]
    assert second.find("other") is None


def test_the_index_is_written_last_and_deleted_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store, order = machine("a").prepare(), []
    objects = store.backend.objects

    def noted(what: str, place: int) -> None:
        real = getattr(objects, what)
        monkeypatch.setattr(objects, what, lambda *given: order.append((what, given[place])) or real(*given))

    for what, place in (("upload", 1), ("create", 0), ("remove", 0)):
        noted(what, place)
    store.make("k", MADE_BY, write_seven, print)
    store.release()
    store.collect(0)
    order = [(what, name) for what, name in order if name.startswith("artifacts/")]
    assert [what for what, _ in order] == ["upload", "upload", "create", "remove", "remove", "remove"]
    assert order[2][1] == order[3][1] == "artifacts/k/entry.json"
    assert names(store) == set()


def test_an_artifact_without_an_index_does_not_exist(machine: Machine) -> None:
    store = machine("a").prepare()
    store.make("k", MADE_BY, write_seven, print)
    store.release()
    store.backend.objects.remove("artifacts/k/entry.json")
    other = machine("b").prepare()
    assert other.find("k") is None
    assert not other.contains("k")
    assert other.rows() == []
    assert not other.make("k", MADE_BY, write_seven, print)[1]


def test_a_copy_of_the_cache_is_hashed_again_and_fetched_again_where_it_is_damaged(machine: Machine) -> None:
    store = machine("a").prepare()
    folder = store.make("k", MADE_BY, write_seven, print)[0].folder
    (folder / "inside" / "data").write_text("eight")
    assert (store.find("k").folder / "inside" / "data").read_text() == "seven"


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "index", "index of another"])
def test_a_damaged_object_is_found_said_and_made_again(machine: Machine, harm: str) -> None:
    first = machine("a").prepare()
    first.make("k", MADE_BY, write_seven, print)
    first.make("other", MADE_BY, write_seven, print)
    first.release()
    large = max(first.backend.objects.listed("artifacts/k").items(), key=lambda each: each[1].size * (
        "entry" not in each[0]))[0]  # fmt: skip
    objects = first.backend.objects
    if harm == "gone":
        objects.remove(large)
    elif harm.startswith("index"):
        edited(first, "artifacts/k/entry.json", objects.read("artifacts/other/entry.json") if "of" in harm else b"{")
    else:
        edited(first, large, b"eight" if harm == "changed" else b"sev")
    second, said = machine("b").prepare(), []
    with pytest.raises(Damage):
        second.find("k")
    if harm.startswith("index"):
        assert [row["pass"] for row in second.rows() if row["key"] == "k"] == ["(damaged)"]
    entry, reused = second.make("k", MADE_BY, write_seven, said.append)
    assert not reused
    assert len(said) == 1
    assert said[0].endswith("made again")
    assert (entry.folder / "inside" / "data").read_text() == "seven"
    assert machine("c").prepare().make("k", MADE_BY, never, print)[1]


def test_two_machines_that_want_the_same_make_it_once(machine: Machine) -> None:
    stores, begun, said, results = [machine(name).prepare() for name in "ab"], threading.Event(), [], []

    def slowly(folder: Path) -> dict[str, Any]:
        begun.set()
        assert waiting.wait(20)
        return write_seven(folder)

    waiting = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        waiting.set()

    def run(store: Store) -> None:
        results.append(store.make("k", MADE_BY, slowly, say)[1])

    threads = [threading.Thread(target=run, args=(store,)) for store in stores]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [False, True]
    assert said == ["store: another run is at k; waiting for it"]


def test_what_a_dead_machine_was_making_another_one_makes_when_its_lease_expired(
    machine: Machine, die: Die, later: Later
) -> None:
    dead, alive = machine("a").prepare(), machine("b").prepare()
    dead.backend.lock("k").take(EXCLUSIVE, wait=None)
    die(dead)
    with alive.free("k") as free:
        assert not free
    later(alive, 61)
    said: list[str] = []
    assert not alive.make("k", MADE_BY, write_seven, said.append)[1]
    assert said == []


def test_of_two_that_make_the_same_only_the_first_is_published(machine: Machine) -> None:
    zombie, other = machine("a").prepare(), machine("b").prepare()

    def overtaken(folder: Path) -> dict[str, Any]:
        other.backend.produce("k", MADE_BY, write_seven, print)  # as one does who took the lease for dead
        (folder / "data").write_text("eight")
        return {"count": 8}

    entry, reused = zombie.make("k", MADE_BY, overtaken, print)
    assert reused
    assert entry.notes == {"count": 7}
    assert (entry.folder / "inside" / "data").read_text() == "seven"
    third = machine("c").prepare()
    assert third.make("k", MADE_BY, never, print)[0].notes == {"count": 7}


def test_what_could_not_be_published_is_kept_and_published_by_the_next_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("a").prepare()

    def full(source: Path, name: str) -> None:
        with store.backend.objects.errors():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.backend.objects, "upload", full)
    with pytest.raises(StoreError, match=rf"is full .*what was finished is kept in {store.root}, and the next run upl"):
        store.make("k", MADE_BY, write_seven, print)
    store.release()
    assert not store.contains("k")
    again, said = machine("a").prepare(), []
    assert again.make("k", MADE_BY, never, said.append)[1]
    assert said == ["store: k was made on this machine before; published"]
    assert machine("b").prepare().make("k", MADE_BY, never, print)[1]


def test_collection_leaves_what_another_machine_uses_or_still_needs(machine: Machine, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("")
    run, other, said = machine("a").prepare(), machine("b").prepare(), []
    for key in ("used", "needed", "free"):
        run.make(key, MADE_BY, write_seven, print)
    run.release()
    run.begin(recipe, ["needed"])
    run.make("used", MADE_BY, never, print)
    assert {row["key"] for row in other.rows() if row["work"]} == {"needed"}
    assert [row["key"] for row in other.collect(0, said.append, dry_run=True)] == ["free"]
    assert names(other) == names(run)
    assert [row["key"] for row in other.collect(0, said.append)] == ["free"]
    assert sorted({line.partition(" is ")[2].partition(" of ")[0] for line in said}) == [
        "in use by a run; left",
        "needed by a run",
    ]
    run.note_user(recipe, ["needed"])
    run.release()
    assert [row["key"] for row in other.collect(5)] == ["used"]
    assert [(row["key"], row["needed_by"], row["work"]) for row in other.rows()] == [("needed", [str(recipe)], [])]


def test_what_a_killed_machine_needed_is_interrupted_when_its_session_is_dead_and_goes_last(
    machine: Machine, tmp_path: Path, die: Die, later: Later
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("")
    run, other = machine("a").prepare(), machine("b").prepare()
    run.begin(recipe, ["needed"])
    for key in ("needed", "free"):
        run.make(key, MADE_BY, write_seven, print)
    die(run)
    assert [row["work"][0]["state"] for row in other.rows() if row["work"]] == ["running"]
    later(other, 61)
    assert [row["work"][0]["state"] for row in other.rows() if row["work"]] == ["interrupted"]
    assert [row["key"] for row in other.collect(5)] == ["free"]


def test_half_an_artifact_and_leases_of_the_dead_go_after_a_day(machine: Machine, die: Die, later: Later) -> None:
    dead, other = machine("a").prepare(), machine("b").prepare()
    dead.make("k", MADE_BY, write_seven, print)
    die(dead)
    edited(other, "artifacts/half/0000", b"x")
    edited(other, "artifacts/k/0000", b"not in the index")
    before = names(other)
    other.clear_drafts(print)
    assert names(other) == before
    assert names(other, "leases")
    later(other, 25 * 3600)
    other.clear_drafts(print)
    assert names(other) == before - {"artifacts/half/0000", "artifacts/k/0000"}
    assert names(other, "leases") == set()
    assert names(other, "sessions") == {other.backend.session.name} & names(other, "sessions")


def test_measurements_and_recipes_are_shared_and_damaged_ones_said(machine: Machine, tmp_path: Path) -> None:
    first, second, said = machine("a").prepare(), machine("b").prepare(), []
    assert first.measurement("m", lambda: {"value": 1}) == {"value": 1}
    assert second.measurement("m", lambda: {"value": 2}) == {"value": 1}
    edited(first, "measurements/m.json", b"{")
    edited(first, "users/u.json", b"[]")
    assert second.damaged() == ["measurements/m.json", "users/u.json"]
    assert second.measurement("m", lambda: {"value": 3}, said.append) == {"value": 3}
    assert said == ["store: measurement m is damaged; measured again"]
    assert second.users() == {}


def test_machines_with_the_same_path_have_records_of_their_own(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, store = tmp_path / "gone.yaml", machine("a").prepare()
    store.note_user(recipe, ["k"])
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    store.note_user(recipe, ["k"])
    assert [user.host for user in store.needs()["k"]] != ["another"]
    assert len(names(store, "users")) == 2


def test_a_store_that_may_only_be_read_serves_what_it_holds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine("a").prepare().make("k", MADE_BY, write_seven, print)

    def refused(*given: object) -> None:
        raise Refused("store: access denied")

    reader = machine("b")
    monkeypatch.setattr(reader.backend.objects, "write", refused)
    with pytest.raises(Refused):
        reader.prepare(["k", "other"])
    reader.prepare(["k"])
    assert reader.make("k", MADE_BY, never, print)[1]
    reader.note_user(Path("r.yaml"), ["k"])
    with pytest.raises(InputError, match="may only be read, and other is not in it"):
        reader.make("other", MADE_BY, never, print)


def test_the_cache_is_bounded_by_what_is_published(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "CACHE_BYTES", 5)
    store = machine("a").prepare()
    for key in ("one", "two"):
        store.make(key, MADE_BY, write_seven, print)
    store.backend.cache.make("unpublished", MADE_BY, write_seven, print)
    store.release()
    assert [row["key"] for row in store.backend.cache.rows()] == ["unpublished"]
    assert {row["key"] for row in store.rows()} == {"one", "two"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"1\n", "/format: '1' is not the format of a store of objects, which is 'objects 1'; choose another prefix"),
        (b"objects 2\n", "is of format 2, which a newer version wrote; this one reads 1: update compress"),
    ],
)
def test_what_is_another_format_is_one_line(machine: Machine, text: bytes, said: str) -> None:
    store = machine("a")
    edited(store, "format", text)
    for look in (store.check, store.prepare):
        with pytest.raises(InputError, match=said):
            look()


def test_a_folder_of_objects_is_no_folder_store(tmp_path: Path) -> None:
    (tmp_path / "format").write_text("objects 1\n")
    with pytest.raises(InputError, match=f"is one of objects; name it by its URL, --store file://{tmp_path}"):
        Store(tmp_path).check()


def test_an_index_is_the_entry_of_a_folder_store(machine: Machine) -> None:
    store = machine("a").prepare()
    entry = store.make("k", MADE_BY, write_seven, print)[0]
    assert store.backend.objects.read("artifacts/k/entry.json") == (entry.folder / "entry.json").read_bytes()
    files = json.loads((entry.folder / "entry.json").read_text())["files"]
    assert names(store) - {"artifacts/k/entry.json"} == {f"artifacts/k/{sha256}" for sha256, _ in files.values()}
