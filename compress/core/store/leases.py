"""Leases in place of locks of files, where several machines share a store: they expire with whoever held them.

A process that holds a lease has a *session*: an object that it writes again every `RENEW_S` seconds. A session that was
not written for `EXPIRY_S` is dead, and so are its leases; a killed process needs no one to clean up behind it. Both
times are the server's: a session knows its offset from when the server says that its object was written. So clocks of
machines may differ by any amount. A process that was stopped for longer than `EXPIRY_S` and goes on does not know that
its lease expired. Two may then make the same artifact; but only the first one's is published (`bucket`).

To take a lease is to announce it by an object and then to look who else did. Who is alone holds it. Of two that
announce at once the later one surely sees the earlier one's object, so there are never two holders; if both see each
other, the later one by (time, owner) withdraws, and the earlier one waits until it did. That needs no condition of the
server, only that a listing shows what was written before.

Leases are shared (those who use an artifact) or not (those who make or delete it), as `locks` are.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable

from compress.core.locks import EXCLUSIVE, SHARED
from compress.core.settings import InputError
from compress.core.store.objects import Info, Objects

EXPIRY_S = 60.0
RENEW_S = 15.0
END_S = 2.0  # that the end of a process waits for a server that does not answer
POLL_S = (0.2, 5.0)  # between two looks at what others hold: at first, and at most
KINDS = {SHARED: "use", EXCLUSIVE: "alone"}


class Session:
    """What tells other machines that this process lives, from its first lease to `end`."""

    def __init__(self, objects: Objects) -> None:
        host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())
        self.objects = objects
        self.owner = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self.numbers = itertools.count()
        self.offset: float | None = None  # from the monotonic clock to the server's
        self.held: set[str] = set()  # the objects of its leases
        self.unremoved: set[str] = set()  # those that could not be given back
        self.guard = threading.Lock()
        self.stop: threading.Event | None = None

    @property
    def name(self) -> str:
        """The session's object."""
        return f"sessions/{self.owner}.json"

    def begin(self) -> None:
        """Write the session's object, if there is none yet, and keep it written.

        Raises:
            StoreError: it cannot be written.
        """
        with self.guard:
            if self.stop is not None:
                return
            self.renew()
            self.stop = threading.Event()
            threading.Thread(target=self.keep, args=(self.stop,), daemon=True).start()

    def keep(self, stop: threading.Event) -> None:
        """Renew until the session ends; while the server does not answer, try again."""
        while not stop.wait(RENEW_S):
            with self.guard, contextlib.suppress(Exception):
                if stop.is_set():  # it would be written behind its removal
                    return
                self.renew()
                for name in [*self.unremoved]:
                    self.objects.remove(name)
                    self.unremoved.discard(name)

    def renew(self) -> None:
        """Write the session's object, and learn the server's time."""
        whose = {"host": socket.gethostname(), "pid": os.getpid()}
        self.objects.write(self.name, json.dumps(whose).encode())
        self.offset = self.objects.info(self.name).modified - time.monotonic()

    def now(self) -> float:
        """The server's time; before the session began, this machine's."""
        return time.time() if self.offset is None else self.offset + time.monotonic()

    def lives(self, owner: str) -> bool:
        """Whether a session was written lately."""
        if owner == self.owner:
            return True
        try:
            return self.now() - self.objects.info(f"sessions/{owner}.json").modified < EXPIRY_S
        except FileNotFoundError:
            return False

    def end(self) -> None:
        """Remove the session's object, if all leases were given back; nothing where a server lets writing it wait."""
        if not self.guard.acquire(timeout=END_S):
            return
        try:
            if self.stop is None or self.held:
                return
            self.stop.set()
            self.stop = None
            with contextlib.suppress(InputError):
                for name in (*self.unremoved, self.name):
                    self.objects.remove(name)
            self.unremoved.clear()
        finally:
            self.guard.release()


class Lease:
    """A lease of a key, held until `release`, or until its session is dead."""

    def __init__(self, session: Session, key: str) -> None:
        self.session, self.key = session, key
        self.number = next(session.numbers)
        self.held: int | None = None

    def take(self, kind: int, *, wait: Callable[[], None] | None) -> bool:
        """Take it, or change its kind from EXCLUSIVE to SHARED; whether it is held now.

        While others hold it, call `wait` once and wait; with None give up.

        Raises:
            StoreError: the server does not answer.
        """
        self.session.begin()
        if self.held == EXCLUSIVE and kind == SHARED:
            self.write(SHARED)
            self.remove(EXCLUSIVE)
            self.held = SHARED
            return True
        self.release()
        pause, wait = POLL_S[0], once(wait)
        while not self.announced(kind, wait):
            if wait is None:
                return False
            while self.others(kind, self.listed()):
                time.sleep(pause)
                pause = min(1.5 * pause, POLL_S[1])
        self.held = kind
        return True

    def announced(self, kind: int, wait: Callable[[], None] | None) -> bool:
        """Announce the lease and look who else did; whether it is held. Else nothing of it is left."""
        self.write(kind)
        try:
            while others := self.others(kind, found := self.listed()):
                if wait is not None:
                    wait()
                # Times of one listing alone: some servers round them in the answer about a single object.
                mine = found[self.name(kind)].modified if self.name(kind) in found else math.inf
                if wait is None or min((info.modified, name) for name, info in others.items()) < (
                    mine,
                    self.name(kind),
                ):
                    self.remove(kind)
                    return False
                time.sleep(POLL_S[0])
        except BaseException:
            self.remove(kind)
            raise
        return True

    def listed(self) -> dict[str, Info]:
        """Every lease of this key."""
        return self.session.objects.listed(f"leases/{self.key}")

    def others(self, kind: int, found: dict[str, Info]) -> dict[str, Info]:
        """Those that live and do not go with this kind, without this one."""
        return {
            name: info
            for name, info in found.items()
            if name not in (self.name(SHARED), self.name(EXCLUSIVE))
            and not (kind == SHARED and name.endswith(KINDS[SHARED]))
            and self.session.lives(owner_of(name))
        }

    def name(self, kind: int) -> str:
        """The object that announces the lease."""
        return f"leases/{self.key}/{self.session.owner}.{self.number}.{KINDS[kind]}"

    def write(self, kind: int) -> None:
        """Announce it."""
        self.session.held.add(self.name(kind))
        self.session.objects.write(self.name(kind), b"")

    def remove(self, kind: int) -> None:
        """Take an announcement back; if the server does not answer, the session does it later."""
        session, name = self.session, self.name(kind)
        session.held.discard(name)
        if not session.unremoved:  # else it did not answer a moment ago, and each attempt takes seconds
            with contextlib.suppress(InputError):
                session.objects.remove(name)
                return
        session.unremoved.add(name)

    def release(self) -> None:
        """Give it back."""
        if self.held is not None:
            self.remove(self.held)
            self.held = None


def owner_of(name: str) -> str:
    """The session of a lease's object."""
    return name.rpartition("/")[2].split(".")[0]


def once(call: Callable[[], None] | None) -> Callable[[], None] | None:
    """What calls a function the first time only."""
    waiting = [] if call is None else [call]
    return None if call is None else lambda: waiting.pop()() if waiting else None
