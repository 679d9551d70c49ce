"""The trials of a self-test, each by its number, so that several processes can share them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from compress.verifying.selftest.bases import BASES, Base, checkpoint, gates_of
from compress.verifying.selftest.faults import FAULTS
from compress.verifying.selftest.harmless import HARMLESS, Harmless
from compress.verifying.selftest.remembered import Remembered
from compress.verifying.selftest.trial import Caught, edited, named, seen, trial

SOUND = tuple(Harmless("none", base, {}, gates_of(base)) for base in BASES)
QUIET = (*SOUND, *HARMLESS)
Task = tuple[str, int, int]  # 'fault', 'quiet' or 'named'; which; and the seed


class Room:
    """Where engines are held against their checkpoints, whose answers are kept."""

    def __init__(self, room: Path) -> None:
        self.room = room

    @cached_property
    def references(self) -> dict[str, Remembered]:
        """The checkpoints by kind."""
        return {kind: Remembered(checkpoint(kind)) for kind, _ in BASES.values()}

    def base(self, name: str) -> Base:
        """A sound engine that was built in the room."""
        return Base(name, checkpoint(BASES[name][0]), self.room / name)

    def reference(self, base: str) -> Remembered:
        """What an engine is held against."""
        return self.references[BASES[base][0]]

    def done(self, task: Task) -> Any:
        """The result of a task."""
        kind, which, seed = task
        return {"fault": self.fault, "quiet": self.quiet, "named": self.named}[kind](which, seed)

    def fault(self, which: int, seed: int) -> Caught:
        """A fault planted."""
        fault, room = FAULTS[which], self.room / f"fault {which}"
        made = trial(fault, self.base(fault.base), self.reference(fault.base), room, gates_of(fault.base))
        shutil.rmtree(room)
        return made

    def quiet(self, which: int, seed: int) -> tuple[str, ...]:
        """What rings at an engine that nothing is wrong with."""
        each = QUIET[which]
        found = seen(self.reference(each.base), self.harmless(which), seed)
        return found.by(each.gates)

    def named(self, which: int, seed: int) -> str:
        """Where `bisect` says that such an engine parts from the one that it was made from."""
        return named(self.base(QUIET[which].base).folder, self.harmless(which))

    def harmless(self, which: int) -> Path:
        """The engine with a harmless edit."""
        each = QUIET[which]
        return self.room / f"quiet {which}" if each.edits else self.room / each.base

    def prepare(self) -> None:
        """Make the harmless edits."""
        for which, each in enumerate(QUIET):
            if each.edits:
                edited(self.room / each.base, self.harmless(which), each.edits, {})


ROOMS: list[Room] = []  # of a process that works for another


def begin(room: Path) -> None:
    """Make a process ready."""
    ROOMS[:] = [Room(room)]


def work(task: Task) -> Any:
    """Do a task in such a process."""
    return ROOMS[0].done(task)


def results(tasks: list[Task], room: Path, processes: int, report: Callable[[int, int], None]) -> dict[Task, Any]:
    """What became of every task."""
    found: dict[Task, Any] = {}
    for task, made in finished(tasks, room, processes):
        found[task] = made
        report(len(found), len(tasks))
    return found


def finished(tasks: list[Task], room: Path, processes: int) -> Iterator[tuple[Task, Any]]:
    """Tasks and their results, as they are done."""
    if processes < 2:
        own = Room(room)
        yield from ((task, own.done(task)) for task in tasks)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), begin, (room,)) as pool:
        running = {pool.submit(work, task): task for task in tasks}
        for each in as_completed(running):
            yield running[each], each.result()
