"""What the store writes down of an artifact, a measurement and a recipe that uses it, read strictly.

Each says its own key and the hash of its content, so a file that was changed, cut, or copied in place of another one
is found.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compress.core.settings import InputError, digest, plain, shown
from compress.core.strict_json import parse_json, read_json

SHA256 = re.compile(r"[0-9a-f]{64}")


class Damaged(ValueError):  # noqa: N818 - a finding, not a failure: it is made again
    """A record that is not what was written; the message says why, without the file's name."""


@dataclass(frozen=True)
class EntryRecord:
    """What entry.json says of an artifact: what made it, the notes of its pass, hash and size of each of its files."""

    key: str
    made_by: dict[str, Any]
    notes: dict[str, Any]
    files: dict[str, tuple[str, int]]

    @property
    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(size for _, size in self.files.values())

    def written(self) -> dict[str, Any]:
        """As it is written into entry.json."""
        value = plain(self)
        return {**value, "sha256": digest(value)}


def content_of(path: Path) -> dict[str, Any]:
    """The mapping that a record's file holds.

    Raises:
        Damaged: it holds something else.
        FileNotFoundError: there is none.
        PermissionError: it may not be read, which says nothing about its content.
    """
    try:
        value = read_json(path)
    except InputError as error:
        if isinstance(error.__cause__, PermissionError):
            raise error.__cause__ from None
        if not path.exists():
            raise FileNotFoundError(path) from None
        raise Damaged(str(error).removeprefix(f"{path}: ")) from error
    return mapping(value)


def content_in(data: bytes) -> dict[str, Any]:
    """The mapping that a record holds, from its bytes.

    Raises:
        Damaged: it holds something else.
    """
    try:
        return mapping(parse_json(data.decode(), "line"))
    except (InputError, UnicodeDecodeError) as error:
        raise Damaged(str(error).removeprefix("line: ")) from error


def mapping(value: Any) -> dict[str, Any]:
    """A mapping.

    Raises:
        Damaged: it is something else.
    """
    if not isinstance(value, dict):
        raise Damaged(f"{shown(value)} is not a mapping")
    return value


def read_entry(path: Path, key: str) -> EntryRecord:
    """What entry.json says of the artifact of this key; without hashing the artifact's files.

    Raises:
        Damaged, FileNotFoundError, PermissionError: as `content_of`; or it is the entry of another key.
    """
    return entry_of(content_of(path), key)


def entry_of(value: dict[str, Any], key: str) -> EntryRecord:
    """What the content of an entry.json says of the artifact of this key.

    Raises:
        Damaged: it says something else, or is the entry of another key.
    """
    stated = value.pop("sha256", None)  # not written by early versions
    if set(value) != {"key", "made_by", "notes", "files"}:
        raise Damaged(f"it has the keys {shown(sorted(value))}")
    if value["key"] != key:
        raise Damaged(f"it belongs to {shown(value['key'])}")
    made_by, notes, files = value["made_by"], value["notes"], value["files"]
    if not (isinstance(made_by, dict) and isinstance(notes, dict) and isinstance(files, dict)):
        raise Damaged("made_by, notes or files is not a mapping")
    if not isinstance(made_by.get("pass"), str):
        raise Damaged("it does not say which pass made it")
    if stated is not None and stated != digest(value):
        raise Damaged("its content is not what was written")
    return EntryRecord(key, made_by, notes, {name: file_of(name, each) for name, each in files.items()})


def file_of(name: str, value: Any) -> tuple[str, int]:
    """Hash and size of a file inside an artifact.

    Raises:
        Damaged: it is something else, or the file lies outside.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise Damaged(f"file {shown(name)} does not lie inside the artifact")
    match value:
        case [str(sha256), int(size)] if SHA256.fullmatch(sha256) and size >= 0 and not isinstance(size, bool):
            return sha256, size
    raise Damaged(f"file {shown(name)}: {shown(value)} is not a hash and a size")


def read_measurement(path: Path, key: str) -> dict[str, Any]:
    """The measurement of this key.

    Raises:
        Damaged, FileNotFoundError, PermissionError: as `content_of`; or it is the measurement of another key.
    """
    return measurement_of(content_of(path), key)


def measurement_of(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The measurement of this key, from the content of its record.

    Raises:
        Damaged: it is something else, or the measurement of another key.
    """
    measured = value.get("value")
    if "key" not in value:  # written before records said what they belong to
        if isinstance(measured, dict) and value.get("sha256") == digest(measured):
            return measured
        raise Damaged("its content is not what was written")
    if value["key"] != key:
        raise Damaged(f"it belongs to {shown(value['key'])}")
    if not isinstance(measured, dict) or value.get("sha256") != digest(key, measured):
        raise Damaged("its content is not what was written")
    return measured


def measurement(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement as it is written."""
    return {"key": key, "sha256": digest(key, value), "value": value}


@dataclass(frozen=True)
class User:
    """A recipe, the keys of the artifacts that it needs, and the process that said so, while it ran or in the end."""

    recipe: str
    keys: tuple[str, ...]
    host: str = ""  # early versions did not say whose it is
    pid: int = 0
    since: int = 0  # seconds since 1970, by that host's clock
    finished: bool = True

    @property
    def is_gone(self) -> bool:
        """Whether the recipe's file is no longer there; one that cannot be looked at may still be."""
        if self.host not in ("", socket.gethostname()):
            return False
        try:
            Path(self.recipe).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False


def read_user(path: Path) -> User:
    """A recipe that uses the store.

    Raises:
        Damaged, FileNotFoundError, PermissionError: as `content_of`.
    """
    return user_of(content_of(path))


def user_of(value: dict[str, Any]) -> User:
    """A recipe that uses the store, from the content of its record.

    Raises:
        Damaged: it is something else.
    """
    match {"host": "", "pid": 0, "since": 0, "finished": True, **value}:
        case {
            "recipe": str(recipe), "keys": list(keys), "host": str(host), "pid": int(pid), "since": int(since),
            "finished": bool(finished),
        } if "\0" not in recipe and all(isinstance(key, str) for key in keys):  # fmt: skip
            return User(recipe, tuple(keys), host, pid, since, finished)
    raise Damaged("it does not name a recipe and its keys")


def finite(value: Any) -> Any:
    """A value with null in place of NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
