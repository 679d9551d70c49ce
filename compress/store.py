"""The content-addressed store: artifacts named by everything that made them, whole or not there, verified on read.

Layout of the root folder:

- ``artifacts/<key>/``: the artifact's files and ``entry.json`` (what made it, the hash and size of each file)
- ``drafts/<key>-<pid>/``: an artifact being written; renamed into place when it is whole
- ``work/<key>/``: checkpoints of a long pass, until its artifact exists
- ``measurements/<key>.json``: what was measured, apart from the artifacts, so another batch size retrains nothing
- ``users/<recipe>.json``: which recipes need which artifacts
- ``locks/<key>``: held while an artifact is made, so two runs never make it twice
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.settings import InputError

ENTRY = "entry.json"


@dataclass(frozen=True)
class Entry:
    """One stored artifact: its key, folder, what made it, and the notes of the pass."""

    key: str
    folder: Path
    made_by: dict[str, Any]
    notes: dict[str, Any]
    size_bytes: int


@dataclass(frozen=True)
class Damage(Exception):  # noqa: N818 - a finding, not a failure: the artifact is made again
    """A stored artifact that is not what was written."""

    folder: Path
    reason: str


class Store:
    """One folder of artifacts and measurements; safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("artifacts", "drafts", "work", "measurements", "users", "locks"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store {root}: cannot be used ({error.strerror}); choose another with --store") from error

    def find(self, key: str) -> Entry | None:
        """The artifact of this key, every file re-hashed, or None if it is not there.

        Raises:
            Damage: it is there, but a file is missing, changed or unreadable.
        """
        folder = self.root / "artifacts" / key
        if not folder.exists():
            return None
        try:
            entry = json.loads((folder / ENTRY).read_text())
            for name, (sha256, size) in entry["files"].items():
                if (folder / name).stat().st_size != size or file_hash(folder / name) != sha256:
                    raise Damage(folder, f"{name} is not what was written")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damage(folder, f"{ENTRY} or a file it lists is unreadable ({type(error).__name__})") from error
        with contextlib.suppress(OSError):
            os.utime(folder)  # least recently used goes first in gc
        size = sum(size for _, size in entry["files"].values())
        return Entry(key, folder, entry["made_by"], entry["notes"], size)

    def contains(self, key: str) -> bool:
        """Whether an artifact of this key is there, without reading it."""
        return (self.root / "artifacts" / key / ENTRY).exists()

    def make(
        self, key: str, made_by: dict[str, Any], write: Callable[[Path], dict[str, Any]], say: Callable[[str], None]
    ) -> tuple[Entry, bool]:
        """The artifact of this key and whether it was reused; made by `write(folder) -> notes` if it is not there.

        A damaged one is said, removed and made again. While another process makes it, this one waits.
        """
        with self.locked(key, say):
            try:
                found = self.find(key)
            except Damage as damage:
                say(f"store: {damage.folder.name[:12]}: {damage.reason}; made again")
                shutil.rmtree(damage.folder)
                found = None
            if found is not None:
                return found, True
            draft = self.root / "drafts" / f"{key}-{os.getpid()}"
            shutil.rmtree(draft, ignore_errors=True)
            try:
                draft.mkdir()
                notes = write(draft)
                files = {
                    str(path.relative_to(draft)): (file_hash(path), path.stat().st_size)
                    for path in sorted(draft.rglob("*"))
                    if path.is_file()
                }
                entry = {"key": key, "made_by": made_by, "notes": notes, "files": files}
                (draft / ENTRY).write_text(json.dumps(entry, indent=1))
                draft.rename(self.root / "artifacts" / key)
            except OSError as error:
                raise disk_error(error, self.root) from error
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
            made = self.find(key)
            assert made is not None
            return made, False

    def workspace(self, key: str) -> Path:
        """A folder for checkpoints of the pass that makes this key; it outlives an interruption."""
        folder = self.root / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def locked(self, key: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock of a key; says so if another run holds it and waits."""
        with (self.root / "locks" / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"store: another run is making {key[:12]}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def measurement(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored measurement of this key, or a new one."""
        path = self.root / "measurements" / f"{key}.json"
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            pass
        value = measure()
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            draft.write_text(json.dumps(value))
            draft.replace(path)
        except OSError as error:
            raise disk_error(error, self.root) from error
        return value

    def note_user(self, recipe: Path, keys: list[str]) -> None:
        """Remember that this recipe needs these artifacts."""
        name = hashlib.sha256(str(recipe.resolve()).encode()).hexdigest()[:16]
        text = json.dumps({"recipe": str(recipe.resolve()), "keys": keys})
        (self.root / "users" / f"{name}.json").write_text(text)

    def users(self) -> dict[str, list[str]]:
        """The recipes that need each key; recipes whose file is gone need nothing."""
        found: dict[str, list[str]] = {}
        for path in sorted((self.root / "users").glob("*.json")):
            try:
                user = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if Path(user["recipe"]).exists():
                for key in user["keys"]:
                    found.setdefault(key, []).append(user["recipe"])
        return found

    def makers(self) -> list[dict[str, Any]]:
        """What made each artifact that the store holds."""
        found = []
        for path in (self.root / "artifacts").glob(f"*/{ENTRY}"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.append(json.loads(path.read_text())["made_by"])
        return found

    def rows(self) -> list[dict[str, Any]]:
        """What the store holds, most recently used first: key, pass, size, seconds since use, recipes that need it."""
        users, rows = self.users(), []
        for folder in (self.root / "artifacts").iterdir():
            try:
                entry = json.loads((folder / ENTRY).read_text())
                name, size = entry["made_by"]["pass"], sum(size for _, size in entry["files"].values())
            except (OSError, ValueError, KeyError, TypeError):
                name, size = "(damaged)", sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            rows.append(
                {
                    "key": folder.name,
                    "pass": name,
                    "size_bytes": size,
                    "unused_seconds": round(time.time() - folder.stat().st_mtime),
                    "needed_by": users.get(folder.name, []),
                }
            )
        return sorted(rows, key=lambda row: row["unused_seconds"])

    def collect(self, max_bytes: int) -> list[dict[str, Any]]:
        """Delete artifacts until at most `max_bytes` are left: those no recipe needs first, then least recently used.

        An artifact that a running process is making or holds is left alone. Returns the rows that were deleted.
        """
        rows = self.rows()
        total, deleted = sum(row["size_bytes"] for row in rows), []
        for row in sorted(rows, key=lambda row: (bool(row["needed_by"]), -row["unused_seconds"])):
            if total <= max_bytes:
                break
            with (self.root / "locks" / row["key"]).open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                doomed = self.root / "drafts" / f"{row['key']}-deleted-{os.getpid()}"
                (self.root / "artifacts" / row["key"]).rename(doomed)
                shutil.rmtree(doomed)
            total -= row["size_bytes"]
            deleted.append(row)
        return deleted


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(error: OSError, root: Path) -> InputError:
    """A full disk or a missing permission, in one line."""
    if error.errno == errno.ENOSPC:
        return InputError(f"store {root}: the disk is full; what was finished is kept, free space and run again")
    return InputError(f"store {root}: cannot write ({error.strerror}); what was finished is kept")
