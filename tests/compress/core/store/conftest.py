"""Stores that several machines share: each has a cache of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_servers import SERVERS, ObjectServer

from compress.core.store import Store
from compress.core.store import leases as lease_module
from compress.core.store import objects as object_module

INSTALLED = [
    name for name, kind in SERVERS.items() if not kind.missing() and name != "moto"
]  # test_servers.py has moto


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ObjectServer]]:
    """A server of objects by its name; each is started once."""
    with contextlib.ExitStack() as running:
        known: dict[str, ObjectServer] = {}

        def start(name: str) -> ObjectServer:
            if name not in known:
                server = SERVERS[name](tmp_path_factory.mktemp(name))
                known[name] = running.enter_context(server.running())
            return known[name]

        yield start


@pytest.fixture
def on_server(started: Callable[[str], ObjectServer], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The URL of a store that is empty on a server, whose credentials are set."""

    def new(name: str) -> str:
        for key, value in started(name).environment().items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr(object_module, "REACH_S", 60.0)  # the first request imports much, on a busy machine
        return started(name).new_prefix()

    return new


@pytest.fixture(params=["memory", "file", *(pytest.param(name, marks=pytest.mark.slow) for name in INSTALLED)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is empty: on this machine, and on every server that is installed here."""
    name = re.sub(r"\W+", "-", request.node.name)
    if request.param in SERVERS:
        return str(request.getfixturevalue("on_server")(request.param))
    return f"memory://{name}/prefix" if request.param == "memory" else f"file://{tmp_path}/shared/store"


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Store]]:
    """A machine that shares the store: `machine("a")`; the same name again is another process of it."""
    monkeypatch.setattr(lease_module, "POLL_S", (0.01, 0.05))
    made: list[Store] = []

    def open_one(name: str, at: str = url) -> Store:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        made.append(Store(at))
        return made[-1]

    yield open_one
    for store in made:
        with contextlib.suppress(Exception):
            store.release()


@pytest.fixture
def die() -> Callable[[Store], None]:
    """End a process as SIGKILL does: its objects stay, its session is no longer renewed, its locks of files go."""

    def killed(store: Store) -> None:
        store.backend.session.stop.set()
        store.held.clear()
        store.backend.cache.held.clear()

    return killed


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[Store, float], None]:
    """Let so many seconds go by for a store, as the server counts them."""

    def passed(store: Store, seconds: float) -> None:
        session = store.backend.session
        monkeypatch.setattr(session, "now", lambda: type(session).now(session) + seconds)

    return passed
