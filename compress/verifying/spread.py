"""Drawing and scoring of a comparison by workers: each does slices of the pictures, with models of its own.

What a slice gives does not depend on who does it, or on what is done beside it. Answers are put in the order of the
pictures, and everything else is computed from them as in one process, so a report is the same whoever worked on it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from compress.bulk.drawing import Cargo
from compress.core.listener import Listener, Silent
from compress.core.settings import InputError
from compress.core.user_files import user_path
from compress.measure.slices import Slice
from compress.measure.subject import Given, GuidedSide, Side
from compress.models import zoo
from compress.models.candidate import Candidate, is_engine, open_candidate
from compress.models.guided import Guided
from compress.workers.crew import Say, Task
from compress.workers.place import Place, opened
from compress.workers.pool import mapped
from export.runtime.manifest import FILE, file_hash
from export.runtime.sampling import Sampler

NAMED = 3  # slices that failed are named in a message at most


@dataclass(frozen=True)
class Source:
    """Where a worker opens a model: by a name, or from the files of an engine, whose manifest has this hash."""

    name: str
    files: Cargo | None = None
    sha256: str = ""  # empty of what is no engine

    @classmethod
    def of(cls, name: str, place: Place) -> Source:
        """The model that a user calls so. Engines travel to a cluster; checkpoints are opened by the same path."""
        path = user_path(name)
        if name not in zoo.names() and path.exists():
            name = str(path.absolute())
        if not is_engine(name):
            return cls(name)
        return cls(name, None if place.is_local else Cargo.of(path), file_hash(path / FILE))

    def open(self, threads: int, room: Path) -> Candidate:
        """The model; files are written into a new folder in `room`.

        Raises:
            InputError: it cannot be opened, or is another one by now.
        """
        folder = Path(self.name)
        if self.files is not None:
            folder = Path(tempfile.mkdtemp(dir=room))
            self.files.unpack(folder)
        if self.sha256 and file_hash(folder / FILE) != self.sha256:
            raise InputError(f"{self.name}: the engine was exchanged while it was compared; begin again")
        return open_candidate(str(folder) if self.sha256 else self.name, threads)


@dataclass(frozen=True)
class Ask:
    """A task: a slice, of the model in this role, with the guidance of a sampler applied where one is given."""

    role: str
    part: Slice
    guidance: Sampler | None = None


@dataclass(frozen=True)
class Working:
    """Makes the function that does slices, inside of a worker: opens the models once."""

    sources: Mapping[str, Source]  # by role
    given: Given
    threads: int
    torch: str  # version: models in PyTorch give other last bits with another

    def __call__(self, say: Say) -> Callable[[Ask], NDArray[Any]]:
        """Open the models.

        Raises:
            InputError: one cannot be opened, or PyTorch is another one.
        """
        if torch.__version__ != self.torch:
            raise InputError(f"has torch {torch.__version__} where the command has {self.torch}; install the same")
        if self.threads:
            torch.set_num_threads(self.threads)
        room = tempfile.TemporaryDirectory(prefix="compress-")
        models = {role: source.open(self.threads, Path(room.name)) for role, source in self.sources.items()}

        def done(ask: Ask) -> NDArray[Any]:
            assert room is not None  # kept as long as the models are: they may read their files later
            model = models[ask.role]
            return ask.part.done(Guided(model, ask.guidance) if ask.guidance else model, self.given)

        return done


@dataclass(frozen=True)
class Spread:
    """The workers of a comparison: where they are, and the models by their roles."""

    place: Place
    names: Mapping[str, str]
    threads: int = 0
    listener: Listener = Silent()  # noqa: RUF009  it has no state

    def do(self, asked: Mapping[str, tuple[Side, Sequence[Slice]]]) -> None:
        """Let workers do slices with the models in these roles; each side has the answers afterwards.

        Raises:
            InputError: no worker can work, or slices failed twice; then all others were done, and these are named.
        """
        sides = {role: side for role, (side, _) in asked.items()}
        given = replace(next(iter(sides.values())).given, listener=Silent(), made={})
        tasks = [
            Task(
                f"{role} {self.names[role]}, {part.words}",
                Ask(role, part, side.sampler if isinstance(side, GuidedSide) else None),
            )
            for role, (side, parts) in asked.items()
            for part in parts
        ]
        sources = {role: Source.of(self.names[role], self.place) for role in asked}
        total = sum(task.argument.part.count for task in tasks)
        done, began, faults = 0, time.monotonic(), {}
        with (
            self.listener.work(f"draw and score {total} pictures") as report,
            opened(self.place, Working(sources, given, self.threads, torch.__version__), self.threads or 1) as crew,
        ):
            report(0, total, {})
            for outcome in mapped(crew, tasks):
                if outcome.fault:
                    faults[outcome.task.name] = outcome.fault
                    continue
                ask: Ask = outcome.task.argument
                sides[ask.role].answers[ask.part] = outcome.value
                done += ask.part.count
                rate = done / max(time.monotonic() - began, 1e-9)
                report(done, total, {"pictures/s": rate, "minutes left": (total - done) / rate / 60})
        if faults:
            raise InputError(set_aside(faults, len(tasks)))


def set_aside(faults: Mapping[str, str], slices: int) -> str:
    """What is said of slices that failed twice."""
    named = "; ".join(f"{name} ({fault})" for name, fault in sorted(faults.items())[:NAMED])
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return (
        f"verify: {len(faults)} of {slices} slices failed twice and were set aside: {named}{more}; all others were "
        f"done, but there is no report without these"
    )
