"""What processes of gangs do in tests; they import it by this name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from compress.core.launched import LostError
from compress.workers.gang import Member


def counted(member: Member) -> tuple[int, int, str]:
    if member.rank == 0:
        member.say(("begun", member.size))
    return member.rank, member.size, member.url


def faulty(error: Exception, rank: int, member: Member) -> None:
    if member.rank == rank:
        raise error
    raise LostError("another one is gone")


def mortal(folder: Path, deaths: int, member: Member) -> str:
    """Die in the second process as often as that; the first one waits for it."""
    if member.rank == 0:
        time.sleep(0.2)
        return "done"
    before = len(list(folder.iterdir()))
    if before < deaths:
        (folder / str(before)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ""


def patient(path: Path, member: Member) -> None:
    if member.rank == 0:
        try:
            member.say("ready")
            time.sleep(60)
        except KeyboardInterrupt:
            path.write_text("kept")
            raise
    time.sleep(60)
