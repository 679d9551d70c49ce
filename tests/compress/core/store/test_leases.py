"""Leases: one holder or several users, over as soon as their holder is dead."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compress.core.locks import EXCLUSIVE, SHARED
from compress.core.store import Store, leases
from compress.core.store.failures import StoreError
from compress.core.store.leases import Lease, Session
from compress.core.store.object_files import objects_at
from compress.core.store.objects import Info, Objects

Sessions = Callable[[], Session]


@pytest.fixture
def session(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """A session of its own, with each call."""
    monkeypatch.setattr(leases, "POLL_S", (0.001, 0.01))
    return lambda: Session(objects_at(url, tmp_path))


def listed(session: Session, folder: str = "leases") -> list[str]:
    return [*session.objects.listed(folder)]


def test_a_lease_is_held_alone_or_by_all_who_share_it(session: Sessions) -> None:
    first, second = Lease(session(), "k"), Lease(session(), "k")
    assert first.take(EXCLUSIVE, wait=None)
    assert not second.take(EXCLUSIVE, wait=None)
    assert not second.take(SHARED, wait=None)
    assert Lease(second.session, "other").take(EXCLUSIVE, wait=None)
    assert first.take(SHARED, wait=None)
    assert second.take(SHARED, wait=None)
    assert not Lease(session(), "k").take(EXCLUSIVE, wait=None)
    first.release()
    second.release()
    assert [name for name in listed(first.session) if "/k/" in name] == []


def test_two_leases_of_one_process_exclude_each_other_too(session: Sessions) -> None:
    mine = session()
    first, second = Lease(mine, "k"), Lease(mine, "k")
    assert first.take(EXCLUSIVE, wait=None)
    assert not second.take(SHARED, wait=None)


def test_whoever_waits_is_told_once_and_gets_it_when_it_is_free(session: Sessions) -> None:
    first, second, told = Lease(session(), "k"), Lease(session(), "k"), []
    first.take(EXCLUSIVE, wait=None)
    timer = threading.Timer(0.1, first.release)

    def waits() -> None:
        told.append("waits")
        timer.start()

    assert second.take(EXCLUSIVE, wait=waits)
    assert told == ["waits"]
    timer.join()


def test_many_that_want_the_same_hold_it_one_after_the_other(session: Sessions) -> None:
    holding, most, turns, chance = [], [], [], random.Random(3)

    def work() -> None:
        mine = session()
        for _ in range(3):
            lease = Lease(mine, "k")
            lease.take(EXCLUSIVE, wait=lambda: None)
            holding.append(1)
            most.append(len(holding))
            time.sleep(chance.uniform(0, 0.002))
            holding.pop()
            turns.append(1)
            lease.release()
        mine.end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(turns) == 12
    assert set(most) == {1}


def test_equal_times_are_told_apart_by_the_owner(session: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 counts whole seconds: two who announce at once and see each other must not both withdraw for ever."""
    early, late = sorted((Lease(session(), "k"), Lease(session(), "k")), key=lambda each: each.name(EXCLUSIVE))
    info, listing = Objects.info, Objects.listed
    for each in (early, late):
        each.session.begin()
    monkeypatch.setattr(Objects, "info", lambda of, name: replace(info(of, name), modified=0.0))
    monkeypatch.setattr(
        Objects, "listed", lambda of, name: {k: replace(v, modified=0.0) for k, v in listing(of, name).items()}
    )
    for each in (early, late):
        monkeypatch.setattr(each.session, "lives", lambda owner: True)
        each.write(EXCLUSIVE)
    waiting = threading.Thread(target=early.announced, args=(EXCLUSIVE, lambda: None))
    waiting.start()
    assert not late.announced(EXCLUSIVE, lambda: None)
    waiting.join(20)
    assert not waiting.is_alive()
    assert [name.rsplit("/", 1)[1] for name in listed(early.session)] == [early.name(EXCLUSIVE).rsplit("/", 1)[1]]


def test_times_that_a_server_rounds_for_single_objects_hold_nobody_up(
    session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a listing with milliseconds and single objects with seconds, both would be the earlier one, and wait."""
    early, late = Lease(session(), "k"), Lease(session(), "k")
    times = {early.name(EXCLUSIVE): 10.2, late.name(EXCLUSIVE): 10.5}
    info, listing = Objects.info, Objects.listed

    def timed(of: Objects, name: str) -> dict[str, Info]:
        return {name: replace(found, modified=times[name]) for name, found in listing(of, name).items()}

    for each in (early, late):
        each.session.begin()
        monkeypatch.setattr(each.session, "lives", lambda owner: True)
        each.write(EXCLUSIVE)
    monkeypatch.setattr(Objects, "info", lambda of, name: replace(info(of, name), modified=10.0))
    monkeypatch.setattr(Objects, "listed", timed)
    waiting = threading.Thread(target=early.announced, args=(EXCLUSIVE, lambda: None), daemon=True)
    waiting.start()
    withdrawn: list[bool] = []
    other = threading.Thread(target=lambda: withdrawn.append(not late.announced(EXCLUSIVE, lambda: None)), daemon=True)
    other.start()
    for thread in (other, waiting):
        thread.join(10)
        assert not thread.is_alive()
    assert withdrawn == [True]


def test_a_lease_is_over_when_its_session_was_not_renewed(session: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    dead, other = Lease(session(), "k"), Lease(session(), "k")
    dead.take(EXCLUSIVE, wait=None)
    dead.session.stop.set()
    assert not other.take(EXCLUSIVE, wait=None)
    monkeypatch.setattr(other.session, "now", lambda: Session.now(other.session) + leases.EXPIRY_S + 1)
    assert other.take(EXCLUSIVE, wait=None)


def test_a_session_that_is_renewed_lives_on(session: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    mine, other = session(), session()
    mine.begin()
    other.begin()
    first, deadline = mine.objects.info(mine.name).modified, time.monotonic() + 20
    while mine.objects.info(mine.name).modified == first:
        assert time.monotonic() < deadline, "it is written again"
        time.sleep(0.02)
    assert other.lives(mine.owner)
    mine.end()
    assert not other.lives(mine.owner)
    other.end()
    assert listed(other, "sessions") == []


def test_the_clock_of_a_machine_does_not_matter(session: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = session(), session()
    mine.begin()
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 1e6)
        other.begin()
        assert other.lives(mine.owner)
        assert abs(other.now() - real()) < 5


def test_a_session_stays_while_a_lease_of_it_is_held(session: Sessions) -> None:
    lease = Lease(session(), "k")
    lease.take(SHARED, wait=None)
    lease.session.end()
    assert listed(lease.session, "sessions") == [lease.session.name]
    lease.release()
    lease.session.end()
    assert listed(lease.session, "sessions") == []


def test_a_lease_that_could_not_be_given_back_is_removed_when_the_server_answers_again(
    session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.02)
    lease = Lease(session(), "k")
    lease.take(EXCLUSIVE, wait=None)
    with monkeypatch.context() as patch:

        def unreachable(name: str) -> None:
            raise StoreError("does not answer")

        patch.setattr(lease.session.objects, "remove", unreachable)
        lease.release()
        assert len(listed(lease.session)) == 1
    deadline = time.monotonic() + 10
    while listed(lease.session) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert listed(lease.session) == []
    lease.session.end()


def test_while_a_server_does_not_answer_leases_are_given_back_without_waiting_for_each(
    session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, attempts = session(), []
    held = [Lease(mine, key) for key in "abc"]
    for lease in held:
        lease.take(SHARED, wait=None)

    def unreachable(name: str) -> None:
        attempts.append(name)
        raise StoreError("does not answer")

    monkeypatch.setattr(mine.objects, "remove", unreachable)
    for lease in held:
        lease.release()
    assert len(attempts) == 1
    assert len(mine.unremoved) == 3
    mine.end()
    assert len(attempts) == 2


def test_a_session_whose_beginning_hangs_holds_up_no_end(session: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, answer = session(), threading.Event()
    monkeypatch.setattr(mine, "renew", lambda: answer.wait(20))
    hanging = threading.Thread(target=mine.begin)
    hanging.start()
    before = time.monotonic()
    mine.end()
    assert time.monotonic() - before < 5
    answer.set()
    hanging.join()
    mine.end()


def test_a_holder_that_fails_while_it_waits_leaves_no_announcement(machine: Callable[..., Store]) -> None:
    first, second = machine("a").prepare(), machine("b").prepare()

    def stop() -> None:
        raise KeyboardInterrupt

    with first.locked("k", print), pytest.raises(KeyboardInterrupt):
        second.backend.lock("k").take(EXCLUSIVE, wait=stop)
    assert listed(first.backend.session) == []
