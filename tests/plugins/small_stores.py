"""Artifacts of a few bytes, in stores that tests make."""

from __future__ import annotations

from pathlib import Path

from compress.core.store import Store

MADE_BY = {"pass": "test"}


def write_seven(folder: Path) -> dict[str, int]:
    (folder / "data").write_text("seven")
    return {"count": 7}


def made(root: Path, *keys: str) -> Store:
    """A store that holds these artifacts, none of them in use."""
    store = Store(root).prepare()
    for key in keys:
        store.make(key, MADE_BY, write_seven, print)
    store.release()
    return store
