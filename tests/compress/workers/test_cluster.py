"""Workers of a Ray cluster; Ray is an extra, and starting a cluster takes half a minute."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from jobs_of_workers import Squares, Told

from compress.core.settings import InputError
from compress.workers import cluster as module
from compress.workers.cluster import cluster
from compress.workers.crew import Task
from compress.workers.place import Place, opened
from compress.workers.pool import mapped

TASKS = [Task(f"{number}", number) for number in range(4)]


def test_without_ray_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = r"^--on ray: Ray is not installed; pip install 'ray\[client\]>=2.60'$"
    with pytest.raises(InputError, match=said), opened(Place(), Squares(Path())):
        pass


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_a_cluster_that_cannot_be_reached_is_one_line_within_ten_seconds(where, monkeypatch) -> None:
    pytest.importorskip("ray")
    address, given = ("ray://127.0.0.1:9", "ray://127.0.0.1:9") if where == "argument" else ("127.0.0.1:9", "")
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(module, "REACHED_S", 1.0)
    began = time.monotonic()
    with pytest.raises(InputError) as error, cluster(given, Squares(Path()), 1):
        pass
    assert time.monotonic() - began < 10
    assert str(error.value) == (
        f"--on {address}: no cluster answers within 1 s; start one with  ray start --head  and give its client port, "
        f"10001 unless it was changed"
    )


def test_a_cluster_with_a_token_wants_one(monkeypatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    module.check_token("ray://head:1")
    monkeypatch.delenv("RAY_AUTH_MODE")
    with pytest.raises(InputError) as error:
        module.check_token("ray://head:1")
    assert str(error.value) == (
        "--on ray://head:1: the cluster wants a token; copy ~/.ray/auth_token from its head to this machine and set "
        "RAY_AUTH_MODE=token"
    )


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_what_fails_twice_is_named(ray, tmp_path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
    with cluster("", Squares(once, fatal=(1,), accidents=1), 1) as crew:
        assert crew.size == 2
        assert {each.task.name: each.value for each in mapped(crew, TASKS)} == {f"{n}": n**2 for n in range(4)}
    with cluster("", Squares(twice, fatal=(1,), wrong=(2,)), 1) as crew:
        found = {each.task.name: each.fault or each.value for each in mapped(crew, TASKS)}
    assert " was lost (" in found.pop("1")
    assert found == {"0": 0, "2": "ValueError: 2 is wrong", "3": 9}
    said = r"^worker \d+ \(.*, process \d+\): ValueError: no engine$"
    with cluster("", Squares(twice, start="error"), 1) as crew, pytest.raises(InputError, match=said):
        list(mapped(crew, TASKS))


@pytest.mark.slow
def test_a_worker_with_other_versions_is_named_and_refused(ray, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("compress.workers.pool.differing", lambda theirs: f"has numpy {theirs['numpy']} where")
    with cluster("", Squares(tmp_path), 1) as crew, pytest.raises(InputError, match=r"^worker \d+ \(.*\): has numpy 2"):
        list(mapped(crew, TASKS))


@pytest.mark.slow
def test_what_workers_say_on_the_way_is_heard_before_their_replies(ray) -> None:
    heard: list[int] = []
    with cluster("", Told(), 1, heard.append) as crew:
        for outcome in mapped(crew, TASKS):
            assert heard.count(outcome.value) == 2
    assert sorted(heard) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.slow
def test_a_cluster_that_is_lost_is_one_line(ray, tmp_path) -> None:
    with pytest.raises(InputError) as error, cluster("", Squares(tmp_path), 1):
        raise ConnectionError("no route\nto it")
    assert str(error.value) == (
        "--on ray: the cluster is gone (ConnectionError: no route); what was finished is kept, start it again and run "
        "the same command"
    )
