"""A store in a folder: drafts that are renamed into place, and locks of files.

Files have the modes that the umask gives, and the permissions that the root gives its group, so several users can share
one that their group may write.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from compress.core import durable, records
from compress.core.locks import EXCLUSIVE, SHARED, Lock
from compress.core.records import Damaged, EntryRecord, User
from compress.core.settings import InputError, plain, shown
from compress.core.store.backend import (
    DAMAGED,
    ENTRY,
    FOLDERS,
    PRIVATE,
    Backend,
    Damage,
    Entry,
    Say,
    Stored,
    Write,
    file_hash,
)
from compress.core.store.failures import REFUSED, disk_error, errors_said
from compress.core.user_files import read_text

FORMAT = 1
FORMAT_FILE = "format"


class Folder(Backend):
    """One folder of artifacts and measurements; safe to use from several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, str(root)

    def prepare(self, wanted: Iterable[str] | None) -> None:
        """Make the folders that writing needs, so that a missing permission is found before anything long begins."""
        self.check()
        try:
            for name in FOLDERS:
                self.make_folder(self.root / name)
                if not os.access(self.root / name, os.W_OK | os.X_OK):
                    code = errno.EROFS if os.statvfs(self.root).f_flag & os.ST_RDONLY else errno.EACCES
                    raise PermissionError(code, os.strerror(code))
            if not (self.root / FORMAT_FILE).exists():
                lock = self.lock(FORMAT_FILE)
                lock.take(EXCLUSIVE, wait=lambda: None)
                self.write(self.root / FORMAT_FILE, f"{FORMAT}\n")
                lock.release()
        except OSError as error:
            if error.errno in REFUSED and wanted is not None and all(self.contains(key) for key in wanted):
                self.writable = False
                return
            reason = f"cannot be written ({error.strerror})"
            raise InputError(f"store {self.root}: {reason}; choose another with --store") from error
        if len({(self.root / name).stat().st_dev for name in FOLDERS}) > 1:
            raise InputError(f"store {self.root}: its folders lie on several disks; move or link all of it to one")
        probe = self.lock("probe")
        probe.take(EXCLUSIVE, wait=None)
        probe.release()

    def check(self) -> None:
        """Refuse what is no store that this version reads."""
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"store {self.root}: is a file, not a folder; choose another with --store")
        path = self.root / FORMAT_FILE
        if os.path.exists(path):  # else not made yet, or of an early version
            check_format(read_text(path, 100).strip(), str(path), str(self.root))

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
        """The artifact of this key, every file re-hashed, or None if it is not there."""
        folder = self.root / "artifacts" / key
        if not os.path.lexists(folder):
            return None
        try:
            record = records.read_entry(folder / ENTRY, key)
            for name, (sha256, size) in record.files.items():
                found = (folder / name).stat()
                if not stat.S_ISREG(found.st_mode) or found.st_size != size or file_hash(folder / name) != sha256:
                    raise Damage(folder, key, f"{name} is not what was written")
        except PermissionError as error:
            raise InputError(
                f"{error.filename}: cannot be read ({error.strerror}); it belongs to another user"
            ) from error
        except Damaged as error:
            raise Damage(folder, key, f"{ENTRY}: {error}") from error
        except OSError as error:
            reason = f"{ENTRY} or a file it lists is unreadable ({error.strerror or error})"
            raise Damage(folder, key, reason) from error
        with contextlib.suppress(OSError):
            os.utime(folder)  # least recently used goes first in gc
        return Entry(key, folder, record.made_by, record.notes, record.size_bytes)

    def contains(self, key: str) -> bool:
        """Whether an artifact of this key is there, without reading it."""
        return os.path.exists(self.root / "artifacts" / key / ENTRY)

    def produce(self, key: str, made_by: dict[str, Any], write: Write, say: Say) -> tuple[Entry, bool]:
        """Write a draft, sync it, and rename it into place."""
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
                give_usual_modes(draft)
                self.open_to_group(draft)
                durable.sync_tree(draft)
                durable.move(draft, self.root / "artifacts" / key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        made = self.find(key)
        assert made is not None
        return made, False

    def discard(self, key: str) -> None:
        """Move an artifact away by one rename, then delete it."""
        doomed = self.root / "drafts" / f"{key}-{os.getpid()}"
        remove(doomed)
        (self.root / "artifacts" / key).rename(doomed)
        remove(doomed)

    def workspace(self, key: str) -> Path:
        """A folder inside `work`."""
        folder = self.root / "work" / key
        self.make_folder(folder)
        return folder

    def lock(self, key: str) -> Lock:
        """The lock of a key, not taken; one without a file where the store may only be read."""
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

    def in_use(self, key: str) -> bool:
        """Whether a process holds the lock's file."""
        path = self.root / "locks" / key
        if not path.exists():
            return False
        try:
            lock = Lock(path)
        except OSError:
            return False
        try:
            return not lock.take(EXCLUSIVE, wait=None)
        finally:
            lock.release()

    def measurement(self, key: str) -> dict[str, Any]:
        """A stored measurement."""
        path = self.root / "measurements" / f"{key}.json"
        try:
            return records.read_measurement(path, key)
        except PermissionError as error:
            raise InputError(f"{path}: another user keeps it private; choose another store with --store") from error

    def put(self, kind: str, name: str, value: Any) -> None:
        """Write a record as JSON, whole or not at all."""
        try:
            self.write(self.root / kind / f"{name}.json", json.dumps(value))
        except OSError as error:
            raise disk_error(error, self.root) from error

    def write(self, path: Path, text: str) -> None:
        """Write a file, whole or not at all, for the group too."""
        durable.write_text(path, text, self.root / "drafts" / f"{path.stem}-{os.getpid()}")
        self.open_to_group(path)

    def users(self) -> Iterator[User]:
        """The recipes that use the store."""
        for path in sorted((self.root / "users").glob("*.json")):
            with contextlib.suppress(OSError, Damaged):
                yield records.read_user(path)

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

    def makers(self) -> Iterator[dict[str, Any]]:
        """What made each artifact that the store holds."""
        for path in (self.root / "artifacts").glob(f"*/{ENTRY}"):
            with contextlib.suppress(OSError, Damaged):
                yield records.read_entry(path, path.parent.name).made_by

    def artifacts(self) -> Iterator[Stored]:
        """Everything in the folder of artifacts, links and stray files too."""
        for folder in (self.root / "artifacts").glob("*"):
            with contextlib.suppress(FileNotFoundError):  # a `collect` beside this one removed it
                name, size = summary(folder)
                yield Stored(folder.name, name, size, folder.lstat().st_mtime)

    def rest(self) -> None:
        """Locks of files need nothing beside them."""

    def tidy(self, say: Say) -> None:
        """Remove the drafts whose key no running process makes."""
        for draft in (self.root / "drafts").glob("*"):
            key = draft.name.rsplit("-", 1)[0]
            lock = self.lock(key) if key.strip(".") else Lock(None)
            try:
                if lock.take(SHARED, wait=None):
                    remove(draft)
            except OSError as error:
                say(f"store: {draft} cannot be deleted ({error.strerror}); left")
            finally:
                lock.release()


def check_format(text: str, place: str, store: str) -> None:
    """Refuse a store whose format this version does not read.

    Raises:
        InputError: it is newer, or no number.
    """
    if text.startswith("objects "):
        raise InputError(
            f"store {store}: is one of objects; name it by its URL, --store file://{os.path.abspath(store)}"
        )
    if not (text.isascii() and text.isdecimal()):
        raise InputError(f"{place}: {shown(text)} is not the number of a store's format; it should be {FORMAT}")
    if int(text) > FORMAT:
        raise InputError(
            f"store {store}: is of format {int(text)}, which a newer version wrote; this one reads {FORMAT}: "
            "update compress, or choose another with --store"
        )


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


def give_usual_modes(draft: Path) -> None:
    """Give files and folders the modes that the umask gives: some libraries write theirs for the user alone.

    The mode of `ENTRY`, which was just written, says what that is: to read the umask is to change it for a moment.
    """
    usual = stat.S_IMODE((draft / ENTRY).stat().st_mode)
    entered = usual | (usual & 0o444) >> 2  # who may read a file may enter a folder
    for path in draft.rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            path.chmod(entered if stat.S_ISDIR(mode) else usual)


def remove(path: Path) -> None:
    """Delete a file, a folder with all it holds, or a link itself; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
