"""Hand named tasks to the workers of a crew, replace those that die, and set aside what fails twice."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from compress.core.settings import InputError
from compress.workers.crew import Crew, Done, Failed, LostError, Task, Worker
from compress.workers.versions import differing

ATTEMPTS = 2  # of a task, before it is set aside: an accident of its worker is forgiven once
STARTS = 3  # workers in a row that die before they are ready


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its value, or why it was set aside."""

    task: Task
    value: Any = None
    fault: str = ""


Again = Callable[[Task, str], None]


def unsaid(task: Task, fault: str) -> None:
    """Say nothing of a task that is done again."""


def mapped(crew: Crew, tasks: Sequence[Task], again: Again = unsaid) -> Iterator[Outcome]:
    """The outcome of every task as soon as it is there, in any order; each task has exactly one.

    `again` is called with a task that is done once more, and with what went wrong.

    Tasks are begun in their order. A worker has its next task before the outcome of the last one is given out. When
    the iterator is closed, and when an error ends it, every worker is stopped.

    Raises:
        InputError: no worker can start, or one has other versions of the libraries; it is named.
    """
    return _worked(_Job(crew, tasks, None, again))


def asked(crew: Crew, more: Callable[[], Task | None], again: Again = unsaid) -> Generator[Outcome, None, None]:
    """As `mapped`, of tasks that depend on the outcomes before: `more` is called when a worker has nothing to do.

    It gives the next task, or None when there are no more; outcomes are given out before it is called.

    Raises:
        InputError: no worker can start, or one has other versions of the libraries; it is named.
    """
    return _worked(_Job(crew, (), more, again))


def _worked(job: _Job) -> Generator[Outcome, None, None]:
    """The outcomes of a job, whose workers are stopped at its end."""
    try:
        yield from job.outcomes()
    finally:
        for worker in [*job.starting, *job.busy, *job.idle]:
            worker.stop()


class _Job:
    """Tasks that wait, and workers: those that start, those that are busy, and those without a task."""

    def __init__(self, crew: Crew, tasks: Sequence[Task], more: Callable[[], Task | None] | None, again: Again) -> None:
        self.crew, self.again, self.more = crew, again, more
        self.waiting = deque(tasks)
        self.attempts: Counter[str] = Counter()
        self.starting: list[Worker] = []
        self.busy: dict[Worker, Task] = {}
        self.idle: list[Worker] = []
        self.lost = 0  # workers in a row that died before they were ready

    def outcomes(self) -> Iterator[Outcome]:
        """As `mapped`."""
        self.hand_out()
        while self.waiting or self.busy or self.more:
            for worker in self.crew.ready([*self.starting, *self.busy]):
                if worker in self.busy:
                    outcome = self.answered(worker, self.busy.pop(worker))
                    if self.more is None:
                        self.hand_out()
                    if outcome is not None:
                        yield outcome
                else:
                    self.joined(worker)
            self.hand_out()

    def hand_out(self) -> None:
        """Give every worker a task, and start workers while there are more tasks than these."""
        while self.idle and (task := self.next_task()) is not None:
            worker = self.idle.pop()
            try:
                worker.send(task.argument)
                self.busy[worker] = task
            except LostError:  # before it began
                worker.stop()
                self.waiting.appendleft(task)
        wanted = self.crew.size if self.more else min(self.crew.size, len(self.waiting) + len(self.busy))
        while len(self.starting) + len(self.busy) + len(self.idle) < wanted:
            self.starting.append(self.crew.start())

    def next_task(self) -> Task | None:
        """The next task; None where there is none."""
        if not self.waiting and self.more is not None:
            if (task := self.more()) is None:
                self.more = None
            return task
        return self.waiting.popleft() if self.waiting else None

    def joined(self, worker: Worker) -> None:
        """A worker is ready, or did not start."""
        try:
            said = worker.reply()
        except LostError as loss:
            self.starting.remove(worker)
            worker.stop()
            self.lost += 1
            if self.lost >= STARTS:
                raise InputError(f"{worker.name}: {loss} before it was ready; so did {STARTS - 1} before it") from loss
            return
        if isinstance(said, Failed):
            raise InputError(f"{worker.name}: {said.fault}")
        if apart := differing(said.value):
            raise InputError(f"{worker.name}: {apart}; install the same versions on every machine")
        self.lost = 0
        self.starting.remove(worker)
        self.idle.append(worker)

    def answered(self, worker: Worker, task: Task) -> Outcome | None:
        """What came of a worker's task; None if it is to be done again."""
        self.attempts[task.name] += 1
        try:
            said = worker.reply()
            self.idle.append(worker)
        except LostError as loss:
            worker.stop()
            said = Failed(f"{worker.name} {loss}")
        if isinstance(said, Done):
            return Outcome(task, said.value)
        if self.attempts[task.name] >= ATTEMPTS:
            return Outcome(task, fault=said.fault)
        self.again(task, said.fault)
        self.waiting.appendleft(task)
        return None
