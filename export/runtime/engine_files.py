"""The files of an engine folder: each lies inside it, has a hash, and is the file that the hash was made of.

Standard library only, because the runtime reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import EngineError, shown
from .external_data import UnreadableError, files_in
from .strict_json import open_regular

GRAPHS = ("decode", "image_decoder", "image_encoder", "scales", "begin", "generate")
NEEDED = ("decode", "image_decoder")
WEIGHTS = "_weights"  # ends the manifest's name of a file of weights beside a graph
PLANS = {"decode": "plan", **{graph: f"{graph}_plan" for graph in GRAPHS[1:5]}}  # roles of what was built of a graph
ROLES = (*GRAPHS, *PLANS.values(), *(f"{graph}{WEIGHTS}" for graph in GRAPHS))
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
SHA256 = re.compile(r"[0-9a-f]{64}")
ONNX = ".onnx"  # ONNX Runtime reads a file that ends in .ort as something else


@dataclass(frozen=True)
class Seal:
    """A file whose content was found to have its hash, and what the system then said of it."""

    path: Path
    sha256: str
    stamp: tuple[int, ...]

    def check(self) -> None:
        """Refuse a file that was exchanged or written since; to be asked after it was opened again.

        Raises:
            EngineError: its content is another one now.
        """
        try:
            if stamp_of(os.stat(self.path)) == self.stamp or file_hash(self.path) == self.sha256:
                return
        except OSError:
            pass
        raise EngineError(f"{self.path}: was changed while it was opened; load the engine again")


def stamp_of(found: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written or another one is put in its place."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def check_names(files: Mapping[str, str], sha256: Mapping[str, str], place: str) -> None:
    """Refuse files that a manifest may not name, and hashes that are not one for each of them.

    Raises:
        EngineError: says which.
    """
    for role, name in files.items():
        if role not in ROLES:
            raise EngineError(f"{place}: files: unknown key {shown(role)}; known: {', '.join(ROLES)}")
        if not PLAIN_NAME.fullmatch(name):
            raise EngineError(
                f"{place}: files.{role}: {shown(name)} is not the name of a file in the engine folder; write it "
                f"without folders, in letters, digits and ._-"
            )
        if role in GRAPHS and not name.endswith(ONNX):
            raise EngineError(f"{place}: files.{role}: {shown(name)} does not end in {ONNX}")
        if name not in sha256:
            raise EngineError(f"{place}: sha256: has no hash of {shown(name)}; export the engine again")
    for role in NEEDED:
        if role not in files:
            raise EngineError(f"{place}: files: '{role}' is missing; every engine has {' and '.join(NEEDED)}")
    for name, value in sha256.items():
        if name not in files.values():
            raise EngineError(f"{place}: sha256: {shown(name)} is none of the files that the engine has")
        if not SHA256.fullmatch(value):
            raise EngineError(f"{place}: sha256[{shown(name)}]: {shown(value)} is not a SHA-256 in 64 hex digits")


def sealed(folder: Path, files: Mapping[str, str], sha256: Mapping[str, str]) -> dict[str, Seal]:
    """Every file by its role, hashed; graphs keep their weights in no other files than these.

    Raises:
        EngineError: a file is missing, damaged, lies elsewhere, or refers to one without a hash.
    """
    seals = {}
    for role, name in files.items():
        path = folder / name
        check_place(folder, path)
        try:
            with open_regular(path) as file:
                stamp = stamp_of(os.fstat(file.fileno()))
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256[name]:
                    raise EngineError(f"{path}: damaged (its content is not what was exported); export it again")
                beside = files_in(file) if role in GRAPHS else set()
        except FileNotFoundError:
            raise EngineError(f"{path}: missing from the engine folder") from None
        except (OSError, UnreadableError) as error:
            raise EngineError(f"{path}: not readable ({error})") from error
        if unknown := sorted(beside - set(files.values())):
            raise EngineError(
                f"{path}: keeps weights in {shown(unknown[0])}, which is none of the files that the manifest has a "
                f"hash of; export the engine again"
            )
        seals[role] = Seal(path, sha256[name], stamp)
    return seals


def check_place(folder: Path, path: Path) -> None:
    """Refuse a link that leads out of the folder, unless into the blobs of the Hugging Face cache it lies in."""
    within = [folder.resolve()]
    within += [each.parent / "blobs" for each in folder.absolute().parents if each.name == "snapshots"]
    try:
        found = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise EngineError(f"{path}: not readable ({error})") from error
    if not any(found.is_relative_to(each.resolve()) for each in within):
        raise EngineError(f"{path}: is a link that leads out of the engine folder; put the file itself there")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        EngineError: it is not a regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
