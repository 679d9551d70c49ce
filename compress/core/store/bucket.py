"""A store in named objects (`objects`), which machines share: published by its last object, held by leases.

An artifact's files are objects called by their hashes, ``artifacts/<key>/<sha256>``, so whoever writes one again, also
a process that everyone took for dead, writes the same bytes. ``entry.json`` names them, and is written last and only
where there is none: an artifact without it does not exist, and of two the first one stays. It is deleted first.

What this machine reads it copies into a folder store of its own, the *cache*, where engines and weights are opened. A
pass writes there too: what could not be published is not lost, and the next run publishes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core import records
from compress.core.locks import Lock
from compress.core.records import Damaged, EntryRecord, User
from compress.core.settings import InputError, shown
from compress.core.store.backend import DAMAGED, ENTRY, Backend, Damage, Entry, Holding, Say, Stored, Write, file_hash
from compress.core.store.leases import Lease, Session, owner_of
from compress.core.store.object_files import objects_at
from compress.core.store.objects import Info, Refused

if TYPE_CHECKING:
    from compress.core.store.store import Store

FORMAT, FORMAT_OBJECT, LAYOUT = 1, "format", "objects"
CACHE_BYTES = 32 << 30  # of published artifacts that this machine keeps when nothing is held
ABANDONED_S = 24 * 3600.0  # what was half made this long ago is not being made


class Bucket(Backend):
    """One prefix of a bucket."""

    def __init__(self, url: str, cache: Store) -> None:
        self.place, self.root, self.cache = url, cache.root, cache
        self.objects = objects_at(url, cache.root)
        self.session = Session(self.objects)

    def check(self) -> None:
        """Refuse what does not answer, or is no store that this version reads."""
        data = self.objects.first(FORMAT_OBJECT)
        if data is None:
            self.objects.listed("users")  # what answers to everything that there is no such thing, is no store
            self.objects.check_bucket()
        words = [LAYOUT, str(FORMAT)] if data is None else data[:100].decode(errors="replace").split()
        if len(words) != 2 or words[0] != LAYOUT or not words[1].isdecimal():
            raise InputError(
                f"{self.place}/{FORMAT_OBJECT}: {shown(' '.join(words))} is not the format of a store of objects, "
                f"which is '{LAYOUT} {FORMAT}'; choose another prefix with --store"
            )
        if int(words[1]) > FORMAT:
            raise InputError(
                f"store {self.place}: is of format {words[1]}, which a newer version wrote; this one reads {FORMAT}: "
                "update compress, or choose another with --store"
            )

    def prepare(self, wanted: Iterable[str] | None) -> None:
        """Begin the session, which shows that it can be written; and make the cache."""
        self.check()
        self.cache.prepare()
        try:
            self.objects.soon(self.session.begin)
        except Refused:
            if wanted is None or not all(self.contains(key) for key in wanted):
                raise
            self.writable = False
            return
        self.objects.create(FORMAT_OBJECT, f"{LAYOUT} {FORMAT}\n".encode())

    def lock(self, key: str) -> Holding:
        """A lease; nothing where the store may only be read."""
        return Lease(self.session, key) if self.writable else Lock(None)

    def in_use(self, key: str) -> bool:
        """Whether a lease of the key lives."""
        return any(self.session.lives(owner_of(name)) for name in self.objects.listed(f"leases/{key}"))

    def contains(self, key: str) -> bool:
        """Whether the artifact's index is there."""
        return self.objects.exists(index(key))

    def find(self, key: str) -> Entry | None:
        """The artifact, copied into the cache if it is not there; all of it re-hashed."""
        try:
            record = self.record(key, self.objects.read(index(key)))
        except FileNotFoundError:
            return None
        self.forget_another(record)
        here, _ = self.cache.make(key, record.made_by, lambda folder: self.fetch(record, folder), lambda text: None)
        return Entry(key, here.folder, record.made_by, record.notes, record.size_bytes)

    def record(self, key: str, data: bytes) -> EntryRecord:
        """What an index says.

        Raises:
            Damage: it is not what was written.
        """
        try:
            return records.entry_of(records.content_in(data), key)
        except Damaged as error:
            raise Damage(f"{self.place}/artifacts/{key}", key, f"{ENTRY}: {error}") from error

    def forget_another(self, record: EntryRecord) -> None:
        """Remove a copy from the cache whose files are not those that are published."""
        place = self.cache.root / "artifacts" / record.key
        with contextlib.suppress(OSError, Damaged):
            if records.read_entry(place / ENTRY, record.key).files != record.files:
                self.cache.let_go(record.key)
                self.cache.backend.discard(record.key)

    def fetch(self, record: EntryRecord, folder: Path) -> dict[str, Any]:
        """Copy an artifact's files.

        Raises:
            Damage: one is missing, or is not what was written.
        """
        for name, (sha256, size) in record.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.objects.download(f"artifacts/{record.key}/{sha256}", target)
            if not target.is_file() or target.stat().st_size != size or file_hash(target) != sha256:
                raise Damage(f"{self.place}/artifacts/{record.key}", record.key, f"{name} is not what was written")
        return record.notes

    def produce(self, key: str, made_by: dict[str, Any], write: Write, say: Say) -> tuple[Entry, bool]:
        """Make the artifact in the cache, and publish it."""
        made, was_here = self.cache.make(key, made_by, write, say)
        if was_here:
            say(f"store: {key[:12]} was made on this machine before; published")
        if not self.publish(made) and (first := self.find(key)) is not None:
            return first, True
        return made, was_here

    def publish(self, made: Entry) -> bool:
        """Upload the files, and then the index; whether nobody was first."""
        record = records.read_entry(made.folder / ENTRY, made.key)
        there = self.objects.listed(f"artifacts/{made.key}")
        for name, (sha256, size) in record.files.items():
            place = f"artifacts/{made.key}/{sha256}"
            if place not in there or there[place].size != size:
                self.objects.upload(made.folder / name, place)
        return self.objects.create(index(made.key), json.dumps(record.written(), indent=1).encode())

    def discard(self, key: str) -> None:
        """Delete the index, then the files."""
        self.objects.remove(index(key))
        for name in self.objects.listed(f"artifacts/{key}"):
            self.objects.remove(name)

    def workspace(self, key: str) -> Path:
        """A folder of the cache."""
        return self.cache.workspace(key)

    def measurement(self, key: str) -> dict[str, Any]:
        """A stored measurement."""
        return records.measurement_of(records.content_in(self.objects.read(f"measurements/{key}.json")), key)

    def put(self, kind: str, name: str, value: Any) -> None:
        """Write a record."""
        self.objects.write(f"{kind}/{name}.json", json.dumps(value).encode())

    def user_name(self, recipe: str, host: str) -> str:
        """The name of a recipe's record: hosts may have different files at one path."""
        return hashlib.sha256(f"{host}:{recipe}".encode(errors="surrogateescape")).hexdigest()[:16]

    def users(self) -> Iterator[User]:
        """The recipes that use the store."""
        for data in self.objects.read_all([*self.objects.listed("users")]).values():
            with contextlib.suppress(Damaged):
                yield records.user_of(records.content_in(data))

    def damaged(self) -> list[str]:
        """The records that are not what was written."""
        found = []
        for name, data in self.objects.read_all(
            [*self.objects.listed("measurements"), *self.objects.listed("users")]
        ).items():
            try:
                content, own = records.content_in(data), Path(name).stem
                records.user_of(content) if name.startswith("users/") else records.measurement_of(content, own)
            except Damaged:
                found.append(name)
        return found

    def makers(self) -> Iterator[dict[str, Any]]:
        """What made each artifact."""
        names = [name for name in self.objects.listed("artifacts") if name.endswith(f"/{ENTRY}")]
        for name, data in self.objects.read_all(names).items():
            with contextlib.suppress(Damage):
                yield self.record(key_of(name), data).made_by

    def artifacts(self) -> Iterator[Stored]:
        """Every artifact that has an index; it was used when it was published, or when a recipe that needs it ran."""
        used: dict[str, float] = {}
        told = self.objects.listed("users")
        for name, data in self.objects.read_all([*told]).items():
            with contextlib.suppress(Damaged):
                for key in records.user_of(records.content_in(data)).keys:
                    used[key] = max(used.get(key, 0.0), told[name].modified)
        groups = self.groups()
        for name, data in self.objects.read_all(
            [index(key) for key, group in groups.items() if index(key) in group]
        ).items():
            key = key_of(name)
            when = max(groups[key][name].modified, used.get(key, 0.0))
            try:
                record = self.record(key, data)
                yield Stored(key, record.made_by["pass"], record.size_bytes, when)
            except Damage:
                yield Stored(key, DAMAGED, sum(each.size for each in groups[key].values()), when)

    def groups(self) -> dict[str, dict[str, Info]]:
        """The objects of each artifact, by its key."""
        found: dict[str, dict[str, Info]] = {}
        for name, info in self.objects.listed("artifacts").items():
            found.setdefault(key_of(name), {})[name] = info
        return found

    def tidy(self, say: Say) -> None:
        """Remove files that no index names, sessions of dead processes and their leases, all older than a day."""
        self.cache.clear_drafts(say)
        for key, group in self.groups().items():
            old = {name for name, info in group.items() if self.is_abandoned(info)} - self.named(key, group)
            if old and not self.in_use(key):
                for name in old:
                    self.objects.remove(name)
        sessions = self.objects.listed("sessions")
        living = {owner_of(name) for name, info in sessions.items() if not self.is_abandoned(info)}
        living.add(self.session.owner)
        for name, info in {**self.objects.listed("leases"), **sessions, **self.objects.listed("drafts")}.items():
            if self.is_abandoned(info) and owner_of(name) not in living:
                self.objects.remove(name)

    def named(self, key: str, group: dict[str, Info]) -> set[str]:
        """The index of an artifact, and the files that it names; of one that is damaged, all."""
        try:
            record = self.record(key, self.objects.read(index(key)))
        except FileNotFoundError:
            return set()
        except Damage:
            return set(group)
        return {index(key), *(f"artifacts/{key}/{sha256}" for sha256, _ in record.files.values())}

    def is_abandoned(self, info: Info) -> bool:
        """Whether an object was written so long ago that nobody is still at it."""
        return self.now() - info.modified > ABANDONED_S

    def now(self) -> float:
        """The server's time."""
        return self.session.now()

    def rest(self) -> None:
        """End the session, and bound the cache."""
        self.cache.release()
        with contextlib.suppress(InputError, OSError):
            self.bound()
        self.session.end()

    def bound(self) -> None:
        """Delete least recently used copies of what is published, down to `CACHE_BYTES`."""
        rows = self.cache.rows()
        total = sum(row["size_bytes"] for row in rows)
        for row in reversed(rows):
            if total <= CACHE_BYTES:
                return
            if row["pass"] == DAMAGED or self.contains(row["key"]):
                with self.cache.free(row["key"]) as free:
                    if free:
                        self.cache.backend.discard(row["key"])
                        total -= row["size_bytes"]


def index(key: str) -> str:
    """The object that makes an artifact exist."""
    return f"artifacts/{key}/{ENTRY}"


def key_of(name: str) -> str:
    """The key that an object belongs to."""
    return name.split("/")[1]
