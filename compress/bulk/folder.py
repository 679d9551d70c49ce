"""The folder of a job: one job at a time, and never pictures of two jobs in it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.bulk.job import Job
from compress.bulk.shards import remove_drafts
from compress.core.durable import write_text
from compress.core.locks import EXCLUSIVE, Lock
from compress.core.settings import InputError, plain, shown
from compress.core.store import errors_said
from compress.core.strict_json import read_json

JOB, LOCK = "job.json", ".lock"


@contextmanager
def claimed(folder: Path, job: Job) -> Iterator[None]:
    """Keep a folder for a job while the block runs: made for it, or one that it was drawn into before.

    Raises:
        InputError: it cannot be written or is full, another process draws into it, or it holds anything else.
    """
    with errors_said(folder):
        found = contents(folder)
        if JOB not in found and found:
            raise InputError(
                f"{folder}: holds {shown(found[0])} and no pictures of a job; choose an empty or a new folder with -o"
            )
        lock = Lock(folder / LOCK)
    try:
        if not lock.take(EXCLUSIVE, wait=None):
            raise InputError(f"{folder}: another process draws into it; wait for it, or choose another folder with -o")
        if JOB in found:
            check_same(folder, job)
        with errors_said(folder):
            if JOB not in found:
                write_text(folder / JOB, f"{json.dumps(plain(job), indent=1)}\n")
            remove_drafts(folder)
        yield
    finally:
        lock.release()


def contents(folder: Path) -> list[str]:
    """What a folder holds, hidden files apart; it is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def check_same(folder: Path, job: Job) -> None:
    """Refuse a folder with pictures of another job.

    Raises:
        InputError: it is one; the first difference is said.
    """
    found, own = read_json(folder / JOB), json.loads(json.dumps(plain(job)))
    if not isinstance(found, dict):
        raise InputError(f"{folder / JOB}: is no job of pictures; choose another folder with -o")
    for name, value in own.items():
        if found.get(name) != value:
            raise InputError(
                f"{folder}: holds pictures of another job, with {said(name, found.get(name), value)}; choose another "
                f"folder with -o"
            )


def said(name: str, theirs: object, own: object) -> str:
    """A difference between two jobs."""
    if isinstance(theirs, dict) and isinstance(own, dict):
        name = next(key for key in own if theirs.get(key) != own[key])
        theirs, own = theirs.get(name), own[name]
    return f"{name} {shown(theirs)} and not {shown(own)}"
