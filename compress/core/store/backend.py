"""What a store rests on: a place for artifacts and records, with locks that all who share it see."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from compress.core.records import User

ENTRY = "entry.json"
FOLDERS = ("artifacts", "drafts", "work", "measurements", "users", "locks")
DAMAGED, PRIVATE = "(damaged)", "(private)"
Say = Callable[[str], None]
Write = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One stored artifact: its key, folder, what made it, and the notes of the pass."""

    key: str
    folder: Path
    made_by: dict[str, Any]
    notes: dict[str, Any]
    size_bytes: int


@dataclass(frozen=True)
class Stored:
    """What a list says of an artifact, without its files being read; `used` is in seconds, as `Backend.now` counts."""

    key: str
    made: str  # the pass, or DAMAGED, or PRIVATE
    size_bytes: int
    used: float


class Damage(Exception):  # noqa: N818 - a finding, not a failure: the artifact is made again
    """A stored artifact that is not what was written."""

    def __init__(self, place: object, key: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.key, self.reason = key, reason


class Holding(Protocol):
    """A lock of a key, held by nobody else until `release`."""

    def take(self, kind: int, *, wait: Callable[[], None] | None) -> bool:
        """Take it as SHARED or EXCLUSIVE, or change its kind; whether it is held now.

        While another one holds it, call `wait` once and wait; with None give up.
        """

    def release(self) -> None:
        """Give it back."""


class Backend(ABC):
    """The place of a store. `root` is its folder, or what this machine keeps of a store elsewhere."""

    place: str  # as users name it
    root: Path
    writable = True

    @abstractmethod
    def check(self) -> None:
        """Refuse what is no store that this version reads.

        Raises:
            InputError: it is something else, of a newer format, or not within reach.
        """

    @abstractmethod
    def prepare(self, wanted: Iterable[str] | None) -> None:
        """Make all that writing needs; where that is not permitted but all of `wanted` is there, only read.

        Raises:
            InputError: it cannot be made.
        """

    @abstractmethod
    def lock(self, key: str) -> Holding:
        """The lock of a key, not taken.

        Raises:
            InputError: it cannot be made.
        """

    @abstractmethod
    def in_use(self, key: str) -> bool:
        """Whether anyone holds the lock of a key; nothing is written to find out."""

    @abstractmethod
    def find(self, key: str) -> Entry | None:
        """The artifact of a key, verified; None if it is not there.

        Raises:
            Damage: it is there, but is not what was written.
            InputError: this user may not read it.
        """

    @abstractmethod
    def contains(self, key: str) -> bool:
        """Whether an artifact of a key is there, without reading it."""

    @abstractmethod
    def produce(self, key: str, made_by: dict[str, Any], write: Write, say: Say) -> tuple[Entry, bool]:
        """Publish what `write(folder) -> notes` makes, whole or not at all; and whether it was there before all."""

    @abstractmethod
    def discard(self, key: str) -> None:
        """Delete an artifact.

        Raises:
            OSError, InputError: it cannot be deleted.
        """

    @abstractmethod
    def workspace(self, key: str) -> Path:
        """A folder of this machine for checkpoints of the pass that makes a key; it outlives an interruption."""

    @abstractmethod
    def measurement(self, key: str) -> dict[str, Any]:
        """A stored measurement.

        Raises:
            Damaged, FileNotFoundError, PermissionError: it is not what was written, not there, or private.
        """

    @abstractmethod
    def put(self, kind: str, name: str, value: Any) -> None:
        """Write a record as JSON, whole or not at all; `kind` is its folder.

        Raises:
            InputError: there is no space, or it cannot be written.
        """

    @abstractmethod
    def users(self) -> Iterator[User]:
        """The recipes that use the store, as far as they can be read."""

    @abstractmethod
    def damaged(self) -> list[str]:
        """The records that are not what was written, by kind and name."""

    @abstractmethod
    def makers(self) -> Iterator[dict[str, Any]]:
        """What made each artifact."""

    @abstractmethod
    def artifacts(self) -> Iterator[Stored]:
        """Every artifact, damaged ones too."""

    @abstractmethod
    def tidy(self, say: Say) -> None:
        """Remove what killed processes left half made."""

    def user_name(self, recipe: str, host: str) -> str:
        """The name of the record of a recipe, which is a path on this host."""
        return hashlib.sha256(recipe.encode(errors="surrogateescape")).hexdigest()[:16]

    def now(self) -> float:
        """The time by the clock that says when artifacts were used, in seconds."""
        return time.time()

    @abstractmethod
    def rest(self) -> None:
        """Nothing is held any more; what tells others that this process lives may end."""


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
