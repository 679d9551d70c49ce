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

from compress.settings import InputError, digest, plain

ENTRY = "entry.json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FOLDERS = ("artifacts", "drafts", "work", "measurements", "users", "locks")


@dataclass(frozen=True)
class Entry:
    """One stored artifact: its key, folder, what made it, and the notes of the pass."""

    key: str
    folder: Path
    made_by: dict[str, Any]
    notes: dict[str, Any]
    size_bytes: int


class Damage(Exception):  # noqa: N818 - a finding, not a failure: the artifact is made again
    """A stored artifact that is not what was written."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.folder, self.reason = folder, reason


class Store:
    """One folder of artifacts and measurements; safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> Store:
        """Make the folders that writing needs, so that a missing permission is found before anything long begins.

        Raises:
            InputError: they cannot be made or written into.
        """
        try:
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
                if not os.access(self.root / name, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise InputError(f"store {self.root}: {reason}; choose another with --store") from error
        return self

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
            size = sum(size for _, size in entry["files"].values())
            found = Entry(key, folder, entry["made_by"], entry["notes"], size)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damage(folder, f"{ENTRY} or a file it lists is unreadable ({type(error).__name__})") from error
        with contextlib.suppress(OSError):
            os.utime(folder)  # least recently used goes first in gc
        return found

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
            except Exception as error:
                if isinstance(error, OSError) or is_full(error):
                    raise disk_error(error, self.root) from error
                raise
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
                say(f"store: another run is at {key[:12]}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def measurement(
        self, key: str, measure: Callable[[], dict[str, Any]], say: Callable[[str], None] = lambda text: None
    ) -> dict[str, Any]:
        """The stored measurement of this key, or a new one; a damaged one is said and measured again.

        While another process measures it, this one waits: two would only disturb each other's times.
        """
        path = self.root / "measurements" / f"{key}.json"
        with self.locked(key, say):
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                if stored["sha256"] == digest(stored["value"]):
                    return stored["value"]
                raise ValueError
            except FileNotFoundError:
                pass
            except (OSError, ValueError, KeyError, TypeError):
                say(f"store: measurement {key[:12]} is damaged; measured again")
            value = plain(measure())
            self.write(path, {"sha256": digest(value), "value": value})
        return value

    def write(self, path: Path, value: Any) -> None:
        """Write JSON, whole or not at all.

        Raises:
            InputError: the disk is full, or the file cannot be written.
        """
        draft = self.root / "drafts" / f"{path.stem}-{os.getpid()}"
        try:
            draft.write_text(json.dumps(value), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise disk_error(error, self.root) from error

    def note_user(self, recipe: Path, keys: list[str]) -> None:
        """Remember that this recipe needs these artifacts."""
        name = hashlib.sha256(str(recipe.resolve()).encode()).hexdigest()[:16]
        self.write(self.root / "users" / f"{name}.json", {"recipe": str(recipe.resolve()), "keys": keys})

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
        for folder in (self.root / "artifacts").glob("*"):
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

        An artifact that a running process is making is left alone. Drafts that killed processes left behind go too.
        Returns the rows that were deleted.
        """
        self.clear_drafts()
        rows = self.rows()
        total, deleted = sum(row["size_bytes"] for row in rows), []
        for row in sorted(rows, key=lambda row: (bool(row["needed_by"]), -row["unused_seconds"])):
            if total <= max_bytes:
                break
            with self.free(row["key"]) as free:
                if not free:
                    continue
                doomed = self.root / "drafts" / f"{row['key']}-{os.getpid()}"
                (self.root / "artifacts" / row["key"]).rename(doomed)
                shutil.rmtree(doomed)
            total -= row["size_bytes"]
            deleted.append(row)
        return deleted

    def clear_drafts(self) -> None:
        """Remove the drafts whose key no running process holds."""
        for draft in (self.root / "drafts").glob("*"):
            with self.free(draft.name.rsplit("-", 1)[0]) as free:
                if free:
                    shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)

    @contextlib.contextmanager
    def free(self, key: str) -> Iterator[bool]:
        """Hold the lock of a key if no other process does; whether it is held now."""
        with (self.root / "locks" / key).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, whichever library tried it."""
    text = str(error)
    if getattr(error, "errno", None) in NO_SPACE:
        return True
    if any(f"Errno {code}]" in text or f"os error {code})" in text for code in NO_SPACE):  # shutil; safetensors
        return True
    return "inline_container.cc" in text and "unexpected pos" in text  # torch.save says no more


def disk_error(error: BaseException, root: Path) -> InputError:
    """A full disk or a missing permission, in one line."""
    if is_full(error):
        return InputError(f"{root}: the disk is full; what was finished is kept, free space and run again")
    place = getattr(error, "filename", None) or root
    return InputError(
        f"{place}: cannot be written ({getattr(error, 'strerror', None) or error}); what was finished is kept"
    )
