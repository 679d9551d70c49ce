"""Shards on disk: a tar file, or a folder of the same files; whole, or not there."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from compress.core.durable import move, write_bytes

DRAFT = ".draft-"  # begins the name of what is not whole yet


class Member(NamedTuple):
    """A file in a shard."""

    name: str
    content: bytes


def packed(members: Iterable[Member]) -> bytes:
    """A tar file (POSIX ustar) of these files in this order; equal files make equal bytes at any time, for any user."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member in members:
            entry = tarfile.TarInfo(member.name)  # of user 0, made at time 0, with mode 0644
            entry.size = len(member.content)
            archive.addfile(entry, io.BytesIO(member.content))
    return content.getvalue()


def publish(content: bytes, place: Path) -> None:
    """Put a packed shard in its place: as it is where the name ends in .tar, else unpacked into a folder.

    Raises:
        OSError: it cannot be written; no draft is left.
    """
    draft = place.with_name(f"{DRAFT}{place.name}-{os.getpid()}")
    if place.suffix == ".tar":
        write_bytes(place, content, draft)
        return
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(draft, filter="data")
        os.sync()  # once for a thousand files; one after the other they would take seconds
        move(draft, place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def remove_drafts(folder: Path) -> None:
    """Remove what a job that was killed left half made."""
    for draft in folder.glob(f"{DRAFT}*"):
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft)
        else:
            draft.unlink()
