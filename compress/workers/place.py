"""Where a user wants work done: processes of this machine, or a Ray cluster; or that train together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from compress.core.launched import launch
from compress.core.settings import InputError, shown
from compress.workers.crew import Crew, Maker, Say, unheard
from compress.workers.local import LocalCrew

LOCAL = re.compile(r"local:([0-9]{1,9})")
RAY = re.compile(r"ray(?:://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5}))?")
TORCHRUN = re.compile(r"torchrun:([0-9]{1,9})")
MOST_WORKERS = 1024  # processes of one machine
MOST_PORT = 65_535


@dataclass(frozen=True)
class Place:
    """Workers of this machine, or with 0 of a cluster: the one at an address, or that this machine belongs to."""

    workers: int = 0
    address: str = ""

    @property
    def is_local(self) -> bool:
        """Whether workers are processes of this machine, which read its files."""
        return self.workers > 0


def place_of(text: str, where: str = "--on") -> Place:
    """The place that a user wrote.

    Raises:
        InputError: it is none.
    """
    if (found := LOCAL.fullmatch(text)) is not None and 1 <= int(found[1]) <= MOST_WORKERS:
        return Place(int(found[1]))
    if (found := RAY.fullmatch(text)) is not None and (not found[1] or 1 <= int(found[2]) <= MOST_PORT):
        return Place(address=text if found[1] else "")
    raise InputError(
        f"{where}: {shown(text)} is no place to work; write local:N (1 to {MOST_WORKERS} processes), ray, or "
        f"ray://HOST:PORT"
    )


def processes_of(text: str, where: str = "--on") -> int:
    """How many processes of this machine a user wants to train with; one where nothing was written.

    Raises:
        InputError: it is no such place, or torchrun has started processes already.
    """
    if not text:
        return 1
    if launch() is not None:
        raise InputError(f"{where}: torchrun has started processes already; leave {shown(text)} out, or torchrun")
    if (found := TORCHRUN.fullmatch(text)) is not None and 1 <= int(found[1]) <= MOST_WORKERS:
        return int(found[1])
    raise InputError(
        f"{where}: {shown(text)} is no place to train; write torchrun:N (1 to {MOST_WORKERS} processes of this machine)"
    )


def place_of_run(text: str) -> tuple[int, Place | None]:
    """Where a user wants a recipe run: how many processes its passes train in, and who makes its engines.

    Without a place, this process does everything.

    Raises:
        InputError: it is none.
    """
    if not text or text.startswith("torchrun"):
        return processes_of(text), None
    try:
        return 1, place_of(text)
    except InputError as error:
        raise InputError(f"{error}; or torchrun:N, for passes that train") from None


@contextmanager
def opened(place: Place, make: Maker, threads: int = 1, heard: Say = unheard) -> Iterator[Crew]:
    """The workers of a place, each with a function that `make` makes and so many processor threads.

    `heard` is called with what they say on the way, while `pool.mapped` waits for them.

    Raises:
        InputError: the cluster cannot be reached, or Ray is not installed.
    """
    if place.is_local:
        yield LocalCrew(place.workers, make, heard)
        return
    from compress.workers.cluster import cluster

    with cluster(place.address, make, threads, heard) as crew:
        yield crew
