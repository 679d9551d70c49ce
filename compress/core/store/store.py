"""What every store does, wherever it lies: find or make once, hold what is used, and remember who needs what."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.core import records
from compress.core.locks import EXCLUSIVE, SHARED
from compress.core.records import Damaged, User
from compress.core.settings import InputError, plain
from compress.core.store import collection
from compress.core.store.backend import Backend, Damage, Entry, Holding, Say, Write
from compress.core.store.bucket import Bucket
from compress.core.store.failures import errors_said
from compress.core.store.folder import Folder
from compress.core.store.places import kept_here, store_place


def silent(text: str) -> None:
    """Say nothing."""


class Store:
    """One place of artifacts and measurements; safe to use from several processes at once."""

    def __init__(self, place: Path | str) -> None:
        """The store in a folder, or at a URL that fsspec opens; nothing is looked at yet.

        Raises:
            InputError: it is neither.
        """
        at = store_place(place)
        self.backend: Backend = Folder(at) if isinstance(at, Path) else Bucket(at, Store(kept_here(at)))
        self.held: dict[str, Holding] = {}

    @property
    def root(self) -> Path:
        """The store's folder; of a store elsewhere, what this machine keeps of it."""
        return self.backend.root

    @property
    def place(self) -> str:
        """The store as users name it."""
        return self.backend.place

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is at a URL, so that `root` is not the store itself."""
        return self.place != str(self.root)

    @property
    def writable(self) -> bool:
        """Whether it may be written, as far as is known."""
        return self.backend.writable

    @writable.setter
    def writable(self, value: bool) -> None:
        self.backend.writable = value

    def prepare(self, wanted: Iterable[str] | None = None) -> Store:
        """Make what writing needs, so that a missing permission is found before anything long begins.

        A store that may only be read is enough where every artifact in `wanted` is in it.

        Raises:
            InputError: it cannot be made or written into, or is of a newer format.
        """
        self.backend.prepare(wanted)
        return self

    def check(self) -> Store:
        """Refuse what is no store that this version reads.

        Raises:
            InputError: it is something else, of a newer format, or not within reach.
        """
        self.backend.check()
        return self

    def find(self, key: str) -> Entry | None:
        """The artifact of this key, every file re-hashed, or None if it is not there.

        Raises:
            Damage: it is there, but a file is missing, changed, unreadable, or belongs to another artifact.
            InputError: this user may not read it.
        """
        return self.backend.find(key)

    def contains(self, key: str) -> bool:
        """Whether an artifact of this key is there, without reading it."""
        return self.backend.contains(key)

    def make(self, key: str, made_by: dict[str, Any], write: Write, say: Say) -> tuple[Entry, bool]:
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
                    f"store {self.place}: may only be read, and {key[:12]} is not in it, or damaged; "
                    "choose another with --store"
                )
            self.let_go(key)
            with self.taken(key, EXCLUSIVE, say) as lock:
                made = self.find_or_make(key, made_by, write, say)
                lock.take(SHARED, wait=lambda: None)
                if self.contains(key):  # a `collect` may have come between the two kinds of lock
                    self.hold(key, lock)
                    return made

    def find_or_make(self, key: str, made_by: dict[str, Any], write: Write, say: Say) -> tuple[Entry, bool]:
        """The artifact of a key whose lock is held alone, and whether it was there."""
        try:
            if (found := self.find(key)) is not None:
                return found, True
        except Damage as damage:
            say(f"store: {key[:12]}: {damage.reason}; made again")
            with errors_said(self.root):
                self.backend.discard(key)
        return self.backend.produce(key, made_by, write, say)

    def workspace(self, key: str) -> Path:
        """A folder of this machine for checkpoints of the pass that makes this key; it outlives an interruption."""
        return self.backend.workspace(key)

    @contextlib.contextmanager
    def taken(self, key: str, kind: int, say: Say) -> Iterator[Holding]:
        """Take the lock of a key, and give it back unless it came to be held; says so if it has to wait."""
        lock = self.backend.lock(key)
        try:
            lock.take(kind, wait=lambda: say(f"store: another run is at {key[:12]}; waiting for it"))
            yield lock
        finally:
            if self.held.get(key) is not lock:
                lock.release()

    def hold(self, key: str, lock: Holding) -> None:
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
        self.backend.rest()

    @contextlib.contextmanager
    def locked(self, key: str, say: Say) -> Iterator[None]:
        """Hold the lock of a key alone; says so if another run holds it and waits."""
        with self.taken(key, EXCLUSIVE, say):
            yield

    @contextlib.contextmanager
    def free(self, key: str) -> Iterator[bool]:
        """Hold the lock of a key alone if nobody is in the way; whether it is held now."""
        lock = self.backend.lock(key)
        try:
            yield lock.take(EXCLUSIVE, wait=None)
        finally:
            lock.release()

    def measurement(self, key: str, measure: Callable[[], dict[str, Any]], say: Say = silent) -> dict[str, Any]:
        """The stored measurement of this key, or a new one; a damaged one is said and measured again.

        While another process measures it, this one waits: two would only disturb each other's times.

        Raises:
            InputError: it is not there, and the store may only be read.
        """
        if (kept := self.known(key)) is not None:
            return kept
        with self.locked(key, say):
            try:
                return self.backend.measurement(key)
            except FileNotFoundError:
                pass
            except (OSError, Damaged):
                say(f"store: measurement {key[:12]} is damaged; measured again")
            if not self.writable:
                raise InputError(f"store {self.place}: may only be read, and a measurement is not in it; "
                                 "choose another with --store")  # fmt: skip
            value: dict[str, Any] = plain(measure())
            self.backend.put("measurements", key, records.measurement(key, value))
        return value

    def known(self, key: str) -> dict[str, Any] | None:
        """The stored measurement of this key; None where there is none that can be read."""
        with contextlib.suppress(OSError, Damaged):
            return self.backend.measurement(key)
        return None

    def note_measurement(self, key: str, value: dict[str, Any]) -> None:
        """Keep a measurement in place of what is there of this key, where the store may be written."""
        if self.writable:
            self.backend.put("measurements", key, records.measurement(key, plain(value)))

    def begin(self, recipe: Path, keys: Sequence[str]) -> None:
        """Remember that a run of this recipe works on these artifacts, until `note_user` says that it is finished.

        If it ends before that, `collect` deletes them last of all. Nothing is remembered where the store may only be
        read.
        """
        if not self.writable:
            return
        user = described(recipe, keys, finished=False)
        if (lock_of_run := running(self.name_of(user))) not in self.held:
            with self.taken(lock_of_run, SHARED, silent) as lock:
                self.hold(lock_of_run, lock)
        with contextlib.suppress(StopIteration):  # what was interrupted before goes on
            before = next(each for each in self.backend.users() if self.name_of(each) == self.name_of(user))
            more = () if before.finished else before.keys
            user = replace(user, keys=tuple(dict.fromkeys((*user.keys, *more))))
        self.note(user)

    def note_user(self, recipe: Path, keys: list[str]) -> None:
        """Remember that this recipe needs these artifacts, where the store may be written."""
        if self.writable:
            user = described(recipe, keys, finished=True)
            self.note(user)
            self.let_go(running(self.name_of(user)))

    def note(self, user: User) -> None:
        """Write down what a recipe needs, and who works on it."""
        with self.locked(self.name_of(user), silent):
            self.backend.put("users", self.name_of(user), plain(user))

    def name_of(self, user: User) -> str:
        """The name of a recipe's record."""
        return self.backend.user_name(user.recipe, user.host)

    def is_running(self, user: User) -> bool:
        """Whether the run that wrote down what a recipe needs still works."""
        return not user.finished and self.backend.in_use(running(self.name_of(user)))

    def needs(self) -> dict[str, list[User]]:
        """The recipes that need each key; recipes whose file is gone need nothing."""
        found: dict[str, list[User]] = {}
        for user in self.backend.users():
            for key in () if user.is_gone else user.keys:
                found.setdefault(key, []).append(user)
        return found

    def users(self) -> dict[str, list[str]]:
        """The names of the recipes that need each key."""
        return {key: [user.recipe for user in users] for key, users in self.needs().items()}

    def damaged(self) -> list[str]:
        """The files of measurements and recipes that are not what was written; runs make them again."""
        return self.backend.damaged()

    def makers(self) -> list[dict[str, Any]]:
        """What made each artifact that the store holds."""
        return [*self.backend.makers()]

    def rows(self) -> list[dict[str, Any]]:
        """What the store holds, most recently used first; see `collection.rows`."""
        return collection.rows(self)

    def collect(self, max_bytes: int, say: Say = silent, *, dry_run: bool = False) -> list[dict[str, Any]]:
        """Delete artifacts until at most `max_bytes` are left; see `collection.collect`."""
        return collection.collect(self, max_bytes, say, dry_run=dry_run)

    def clear_drafts(self, say: Say) -> None:
        """Remove what killed processes left half made."""
        self.backend.tidy(say)


def described(recipe: Path, keys: Sequence[str], *, finished: bool) -> User:
    """A recipe, what it needs, and this process, which says so."""
    return User(str(recipe.resolve()), tuple(keys), socket.gethostname(), os.getpid(), int(time.time()), finished)


def running(name: str) -> str:
    """The lock that a run holds while it works on a recipe, by the name of the recipe's record."""
    return f"{name}.run"
