"""The content-addressed store: artifacts named by everything that made them, whole or not there, verified on read.

Layout of the root folder:

- ``format``: the version of this layout
- ``artifacts/<key>/``: the artifact's files and ``entry.json`` (what made it, the hash and size of each file)
- ``drafts/<key>-<pid>/``: an artifact being written; renamed into place when it is whole and on the disk
- ``work/<key>/``: checkpoints of a long pass, until its artifact exists
- ``measurements/<key>.json``: what was measured, apart from the artifacts, so another batch size retrains nothing
- ``users/<recipe>.json``: which recipes need which artifacts
- ``locks/<key>``: held alone while an artifact is made, so two runs never make it twice; and shared by the runs that
  use it, so `collect` leaves it

Files take the group's permissions from the root folder, so several users can share one that their group may write.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core import durable, records
from compress.core.locks import EXCLUSIVE, SHARED, Lock
from compress.core.records import Damaged, EntryRecord
from compress.core.settings import InputError, plain, shown
from compress.core.user_files import read_text

ENTRY = "entry.json"
FORMAT = 1
FORMAT_FILE = "format"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
FOLDERS = ("artifacts", "drafts", "work", "measurements", "users", "locks")
DAMAGED, PRIVATE = "(damaged)", "(private)"


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
        self.writable = True
        self.held: dict[str, Lock] = {}

    def prepare(self, wanted: Iterable[str] | None = None) -> Store:
        """Make the folders that writing needs, so that a missing permission is found before anything long begins.

        A store that may only be read is enough where every artifact in `wanted` is in it.

        Raises:
            InputError: they cannot be made or written into, or the store is of a newer format.
        """
        self.check()
        try:
            for name in FOLDERS:
                self.make_folder(self.root / name)
                if not os.access(self.root / name, os.W_OK | os.X_OK):
                    code = errno.EROFS if os.statvfs(self.root).f_flag & os.ST_RDONLY else errno.EACCES
                    raise PermissionError(code, os.strerror(code))
            if not (self.root / FORMAT_FILE).exists():
                with self.locked(FORMAT_FILE, lambda text: None):
                    self.put(self.root / FORMAT_FILE, f"{FORMAT}\n")
        except OSError as error:
            if error.errno in REFUSED and wanted is not None and all(self.contains(key) for key in wanted):
                self.writable = False
                return self
            reason = f"cannot be written ({error.strerror})"
            raise InputError(f"store {self.root}: {reason}; choose another with --store") from error
        if len({(self.root / name).stat().st_dev for name in FOLDERS}) > 1:
            raise InputError(f"store {self.root}: its folders lie on several disks; move or link all of it to one")
        with self.free("probe"):
            return self

    def check(self) -> Store:
        """Refuse what is no store that this version reads.

        Raises:
            InputError: it is a file, or of a newer format.
        """
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"store {self.root}: is a file, not a folder; choose another with --store")
        path = self.root / FORMAT_FILE
        if not os.path.exists(path):  # not made yet, or of an early version
            return self
        text = read_text(path, 100).strip()
        if not (text.isascii() and text.isdecimal()):
            raise InputError(f"{path}: {shown(text)} is not the number of a store's format; it should be {FORMAT}")
        if int(text) > FORMAT:
            raise InputError(
                f"store {self.root}: is of format {int(text)}, which a newer version wrote; this one reads {FORMAT}: "
                "update compress, or choose another with --store"
            )
        return self

    def make_folder(self, folder: Path) -> None:
        """Make a folder inside the root, with the root's permissions for its group."""
        if folder.is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.open_to_group(folder)

    def open_to_group(self, path: Path) -> None:
        """Give a file or folder of ours the permissions that the root gives its group, whatever the umask."""
        shared = stat.S_IMODE(self.root.stat().st_mode) & stat.S_IRWXG
        if not shared & stat.S_IWGRP:
            return
        for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
            mode = each.lstat().st_mode
            if not stat.S_ISLNK(mode):
                group = shared if stat.S_ISDIR(mode) else shared & ~stat.S_IXGRP
                with contextlib.suppress(PermissionError):  # another user's
                    each.chmod(stat.S_IMODE(mode) | group)

    def find(self, key: str) -> Entry | None:
        """The artifact of this key, every file re-hashed, or None if it is not there.

        Raises:
            Damage: it is there, but a file is missing, changed, unreadable, or belongs to another artifact.
            InputError: this user may not read it.
        """
        folder = self.root / "artifacts" / key
        if not os.path.lexists(folder):
            return None
        try:
            record = records.read_entry(folder / ENTRY, key)
            for name, (sha256, size) in record.files.items():
                found = (folder / name).stat()
                if not stat.S_ISREG(found.st_mode) or found.st_size != size or file_hash(folder / name) != sha256:
                    raise Damage(folder, f"{name} is not what was written")
        except PermissionError as error:
            raise InputError(
                f"{error.filename}: cannot be read ({error.strerror}); it belongs to another user"
            ) from error
        except Damaged as error:
            raise Damage(folder, f"{ENTRY}: {error}") from error
        except OSError as error:
            raise Damage(folder, f"{ENTRY} or a file it lists is unreadable ({error.strerror or error})") from error
        with contextlib.suppress(OSError):
            os.utime(folder)  # least recently used goes first in gc
        return Entry(key, folder, record.made_by, record.notes, record.size_bytes)

    def contains(self, key: str) -> bool:
        """Whether an artifact of this key is there, without reading it."""
        return os.path.exists(self.root / "artifacts" / key / ENTRY)

    def make(
        self, key: str, made_by: dict[str, Any], write: Callable[[Path], dict[str, Any]], say: Callable[[str], None]
    ) -> tuple[Entry, bool]:
        """The artifact of this key and whether it was reused; made by `write(folder) -> notes` if it is not there.

        A damaged one is said, removed and made again. While another process makes it, this one waits. No `collect`
        removes it before `release`.
        """
        while True:
            with self.taken(key, SHARED, say) as lock, contextlib.suppress(Damage):
                if (found := self.find(key)) is not None:
                    self.hold(key, lock)
                    return found, True
            if not self.writable:
                raise InputError(
                    f"store {self.root}: may only be read, and {key[:12]} is not in it, or damaged; "
                    "choose another with --store"
                )
            self.let_go(key)
            with self.taken(key, EXCLUSIVE, say) as lock:
                made = self.find_or_make(key, made_by, write, say)
                lock.take(SHARED, wait=lambda: None)
                if self.contains(key):  # a `collect` may have come between the two kinds of lock
                    self.hold(key, lock)
                    return made

    def find_or_make(
        self, key: str, made_by: dict[str, Any], write: Callable[[Path], dict[str, Any]], say: Callable[[str], None]
    ) -> tuple[Entry, bool]:
        """The artifact of a key whose lock is held alone, and whether it was there."""
        try:
            if (found := self.find(key)) is not None:
                return found, True
        except Damage as damage:
            say(f"store: {damage.folder.name[:12]}: {damage.reason}; made again")
            with errors_said(self.root):
                remove(damage.folder)
        draft = self.root / "drafts" / f"{key}-{os.getpid()}"
        try:
            with errors_said(self.root):
                remove(draft)
                draft.mkdir()
                notes = write(draft)
                files = {
                    path.relative_to(draft).as_posix(): (file_hash(path), path.stat().st_size)
                    for path in sorted(draft.rglob("*"))
                    if path.is_file()
                }
                record = EntryRecord(key, plain(made_by), records.finite(plain(notes)), files)
                (draft / ENTRY).write_text(json.dumps(record.written(), indent=1), encoding="utf-8")
                self.open_to_group(draft)
                durable.sync_tree(draft)
                durable.move(draft, self.root / "artifacts" / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        made = self.find(key)
        assert made is not None
        return made, False

    def workspace(self, key: str) -> Path:
        """A folder for checkpoints of the pass that makes this key; it outlives an interruption."""
        folder = self.root / "work" / key
        self.make_folder(folder)
        return folder

    @contextlib.contextmanager
    def taken(self, key: str, kind: int, say: Callable[[str], None]) -> Iterator[Lock]:
        """Take the lock of a key, and give it back unless it came to be held; says so if it has to wait."""
        lock = self.lock(key)
        try:
            lock.take(kind, wait=lambda: say(f"store: another run is at {key[:12]}; waiting for it"))
            yield lock
        finally:
            if self.held.get(key) is not lock:
                lock.release()

    def lock(self, key: str) -> Lock:
        """The lock of a key, not taken; one without a file where the store may only be read.

        Raises:
            InputError: its file cannot be opened.
        """
        path = self.root / "locks" / key
        is_new = not path.exists()
        try:
            lock = Lock(path)
            if is_new:
                self.open_to_group(path)
        except OSError as error:
            if not self.writable:
                return Lock(None)
            raise disk_error(error, self.root) from error
        return lock

    def hold(self, key: str, lock: Lock) -> None:
        """Keep a lock until `release`; one is enough for a key."""
        self.held.setdefault(key, lock)

    def let_go(self, key: str) -> None:
        """Give the lock of a key back, if it is held."""
        if key in self.held:
            self.held.pop(key).release()

    def release(self) -> None:
        """Say that the artifacts which were found or made are no longer used."""
        for key in list(self.held):
            self.let_go(key)

    @contextlib.contextmanager
    def locked(self, key: str, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock of a key alone; says so if another run holds it and waits."""
        with self.taken(key, EXCLUSIVE, say):
            yield

    @contextlib.contextmanager
    def free(self, key: str, kind: int = EXCLUSIVE) -> Iterator[bool]:
        """Hold the lock of a key if nobody is in the way; whether it is held now."""
        lock = self.lock(key)
        try:
            yield lock.take(kind, wait=None)
        finally:
            lock.release()

    def measurement(
        self, key: str, measure: Callable[[], dict[str, Any]], say: Callable[[str], None] = lambda text: None
    ) -> dict[str, Any]:
        """The stored measurement of this key, or a new one; a damaged one is said and measured again.

        While another process measures it, this one waits: two would only disturb each other's times.

        Raises:
            InputError: it is not there, and the store may only be read.
        """
        path = self.root / "measurements" / f"{key}.json"
        with self.locked(key, say):
            try:
                return records.read_measurement(path, key)
            except FileNotFoundError:
                pass
            except PermissionError as error:
                raise InputError(f"{path}: another user keeps it private; choose another store with --store") from error
            except (OSError, Damaged):
                say(f"store: measurement {key[:12]} is damaged; measured again")
            if not self.writable:
                raise InputError(f"store {self.root}: may only be read, and a measurement is not in it; "
                                 "choose another with --store")  # fmt: skip
            value: dict[str, Any] = plain(measure())
            self.write(path, records.measurement(key, value))
        return value

    def write(self, path: Path, value: Any) -> None:
        """Write JSON, whole or not at all.

        Raises:
            InputError: the disk is full, or the file cannot be written.
        """
        try:
            self.put(path, json.dumps(value))
        except OSError as error:
            raise disk_error(error, self.root) from error

    def put(self, path: Path, text: str) -> None:
        """Write a file, whole or not at all, for the group too."""
        durable.write_text(path, text, self.root / "drafts" / f"{path.stem}-{os.getpid()}")
        self.open_to_group(path)

    def note_user(self, recipe: Path, keys: list[str]) -> None:
        """Remember that this recipe needs these artifacts, where the store may be written."""
        if not self.writable:
            return
        name = hashlib.sha256(str(recipe.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
        with self.locked(name, lambda text: None):
            self.write(self.root / "users" / f"{name}.json", {"recipe": str(recipe.resolve()), "keys": keys})

    def users(self) -> dict[str, list[str]]:
        """The recipes that need each key; recipes whose file is gone need nothing."""
        found: dict[str, list[str]] = {}
        for path in sorted((self.root / "users").glob("*.json")):
            with contextlib.suppress(OSError, Damaged):
                user = records.read_user(path)
                for key in () if user.is_gone else user.keys:
                    found.setdefault(key, []).append(user.recipe)
        return found

    def damaged(self) -> list[str]:
        """The files of measurements and recipes that are not what was written; runs make them again."""
        readers: dict[str, Callable[[Path], object]] = {
            "measurements": lambda path: records.read_measurement(path, path.stem),
            "users": records.read_user,
        }
        found = []
        for name, read in readers.items():
            for path in sorted((self.root / name).glob("*.json")):
                try:
                    read(path)
                except Damaged:
                    found.append(f"{name}/{path.name}")
                except OSError:
                    continue
        return found

    def makers(self) -> list[dict[str, Any]]:
        """What made each artifact that the store holds."""
        found = []
        for path in (self.root / "artifacts").glob(f"*/{ENTRY}"):
            with contextlib.suppress(OSError, Damaged):
                found.append(records.read_entry(path, path.parent.name).made_by)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """What the store holds, most recently used first: key, pass, size, seconds since use, recipes that need it."""
        users, rows = self.users(), []
        for folder in (self.root / "artifacts").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # a `collect` beside this one removed it
                name, size = summary(folder)
                rows.append(
                    {
                        "key": folder.name,
                        "pass": name,
                        "size_bytes": size,
                        "unused_seconds": round(time.time() - folder.lstat().st_mtime),
                        "needed_by": users.get(folder.name, []),
                    }
                )
        return sorted(rows, key=lambda row: row["unused_seconds"])

    def collect(self, max_bytes: int, say: Callable[[str], None] = lambda text: None) -> list[dict[str, Any]]:
        """Delete artifacts until at most `max_bytes` are left: those no recipe needs first, then least recently used.

        What is damaged, or is no artifact at all, goes in any case. An artifact that a running process makes or uses
        is left alone, and so is one that this user may not delete.
        Drafts that killed processes left behind go too.
        Returns the rows that were deleted.
        """
        self.release()
        self.clear_drafts(say)
        rows = self.rows()
        total, deleted = sum(row["size_bytes"] for row in rows), []
        for row in sorted(rows, key=lambda row: (bool(row["needed_by"]), -row["unused_seconds"])):
            if total <= max_bytes and row["pass"] != DAMAGED:
                continue
            with self.free(row["key"]) as free:
                if not free:
                    say(f"store: {row['key'][:12]} is in use by a run; left")
                    continue
                doomed = self.root / "drafts" / f"{row['key']}-{os.getpid()}"
                try:
                    remove(doomed)
                    (self.root / "artifacts" / row["key"]).rename(doomed)
                    remove(doomed)
                except OSError as error:
                    say(f"store: {row['key'][:12]} cannot be deleted ({error.strerror}); left")
                    continue
            total -= row["size_bytes"]
            deleted.append(row)
        return deleted

    def clear_drafts(self, say: Callable[[str], None]) -> None:
        """Remove the drafts whose key no running process makes."""
        for draft in (self.root / "drafts").glob("*"):
            key = draft.name.rsplit("-", 1)[0]
            with self.free(key, SHARED) if key.strip(".") else contextlib.nullcontext(True) as free:
                if free:
                    try:
                        remove(draft)
                    except OSError as error:
                        say(f"store: {draft} cannot be deleted ({error.strerror}); left")


def summary(folder: Path) -> tuple[str, int]:
    """The pass that made an artifact, and its size in bytes; of one that this user may not read, neither."""
    try:
        record = records.read_entry(folder / ENTRY, folder.name)
        return record.made_by["pass"], record.size_bytes
    except PermissionError:
        return PRIVATE, 0
    except (OSError, Damaged):
        inside = folder.rglob("*") if folder.is_dir() and not folder.is_symlink() else (folder,)
        return DAMAGED, sum(path.lstat().st_size for path in inside if stat.S_ISREG(path.lstat().st_mode))


def remove(path: Path) -> None:
    """Delete a file, a folder with all it holds, or a link itself; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    if any(os.strerror(code) in text for code in NO_SPACE):  # libraries in C++
        return True
    torch_only_says = "inline_container.cc" in text and "unexpected pos" in text
    return torch_only_says or "PytorchStreamWriter failed writing" in text


@contextlib.contextmanager
def errors_said(root: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one line, whichever library finds it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or is_full(error):
            raise disk_error(error, root) from error
        raise


def prepare_output(output: Path) -> None:
    """Make the folder that a job writes into before anything long begins, so that a missing permission is found now.

    Raises:
        InputError: it cannot be made or written into.
    """
    probe = output / f".probe-{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"output {output}: cannot be written ({error.strerror}); choose another with -o") from error


def disk_error(error: BaseException, root: Path) -> InputError:
    """A full disk or a missing permission, in one line."""
    if is_full(error):
        return InputError(f"{root}: the disk is full; what was finished is kept, free space and run again")
    place = getattr(error, "filename", None) or root
    return InputError(
        f"{place}: cannot be written ({getattr(error, 'strerror', None) or error}); what was finished is kept"
    )
