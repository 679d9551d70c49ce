"""Stores that several machines share: each has a cache of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress.core.store import Store
from compress.core.store import leases as lease_module


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that is empty."""
    name = re.sub(r"\W+", "-", request.node.name)
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
