"""Tasks are handed to workers; what dies is replaced, and what fails twice is set aside."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from compress.core.settings import InputError
from compress.workers.crew import Done, Failed, LostError, Task, Worker
from compress.workers.pool import asked, mapped
from compress.workers.versions import versions

Answer = Done | Failed | LostError


class Scripted:
    """A crew without processes: `answers` says what comes of an argument each time; workers answer in turn."""

    def __init__(self, size: int, answer: Callable[[Any, int], Answer], starts: Sequence[Answer] = ()) -> None:
        self.size, self.answer, self.starts = size, answer, deque(starts)
        self.seen: Counter[Any] = Counter()
        self.workers: list[ScriptedWorker] = []

    def start(self) -> Worker:
        self.workers.append(ScriptedWorker(self, f"worker {len(self.workers) + 1}"))
        return self.workers[-1]

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        assert workers
        assert not any(worker.stopped for worker in workers)
        return workers[:1]


class ScriptedWorker:
    def __init__(self, crew: Scripted, name: str) -> None:
        self.crew, self.name, self.stopped = crew, name, False
        self.next: Answer = crew.starts.popleft() if crew.starts else Done(versions())

    def send(self, argument: Any) -> None:
        self.crew.seen[argument] += 1
        self.next = self.crew.answer(argument, self.crew.seen[argument])

    def reply(self) -> Done | Failed:
        if isinstance(self.next, LostError):
            raise self.next
        return self.next

    def stop(self) -> None:
        self.stopped = True


def numbered(count: int) -> list[Task]:
    return [Task(f"task {number}", number) for number in range(count)]


def found(crew: Scripted, count: int) -> dict[str, Any]:
    """Value or fault of each task, each of which has one outcome; all workers were stopped."""
    outcomes = list(mapped(crew, numbered(count)))
    assert len({each.task.name for each in outcomes}) == len(outcomes) == count
    assert all(worker.stopped for worker in crew.workers)
    return {each.task.name: each.fault or each.value for each in outcomes}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_task_is_done_once_whatever_the_number_of_workers(size: int) -> None:
    crew = Scripted(size, lambda number, attempt: Done(10 * number))
    assert found(crew, 7) == {f"task {number}": 10 * number for number in range(7)}
    assert crew.seen == dict.fromkeys(range(7), 1)
    assert len(crew.workers) == size


def test_no_more_workers_are_started_than_there_are_tasks() -> None:
    crew = Scripted(5, lambda number, attempt: Done(number))
    found(crew, 2)
    assert len(crew.workers) == 2
    assert found(Scripted(5, lambda number, attempt: Done(number)), 0) == {}


def test_a_worker_that_dies_is_replaced_and_its_task_done_again() -> None:
    crew = Scripted(2, lambda number, attempt: LostError("is gone") if (number, attempt) == (1, 1) else Done(number))
    assert found(crew, 4) == {f"task {number}": number for number in range(4)}
    assert crew.seen[1] == 2
    assert len(crew.workers) == 3


@pytest.mark.parametrize(
    ("answer", "fault"), [(LostError("is gone"), "worker 3 is gone"), (Failed("ValueError: no"), "ValueError: no")]
)
def test_a_task_that_fails_or_kills_its_worker_twice_is_set_aside_and_the_rest_finishes(answer, fault) -> None:
    crew = Scripted(2, lambda number, attempt: answer if number == 1 else Done(number))
    results = found(crew, 5)
    assert results.pop("task 1").endswith(fault.partition(" ")[2] if isinstance(answer, LostError) else fault)
    assert results == {f"task {number}": number for number in (0, 2, 3, 4)}
    assert crew.seen[1] == 2, "never a third time"


def test_a_worker_has_its_next_task_before_the_outcome_of_the_last_is_given_out() -> None:
    crew = Scripted(1, lambda number, attempt: Done(number))
    outcomes = mapped(crew, numbered(3))
    next(outcomes)
    assert crew.seen == {0: 1, 1: 1}
    outcomes.close()
    assert all(worker.stopped for worker in crew.workers)


def test_a_worker_that_is_gone_before_it_gets_a_task_costs_no_attempt() -> None:
    crew = Scripted(1, lambda number, attempt: Failed("no") if attempt == 1 else Done(number))
    usual, refused = ScriptedWorker.send, []

    def send(worker: ScriptedWorker, argument: Any) -> None:
        if not refused:
            refused.append(worker.name)
            raise LostError("is gone")
        usual(worker, argument)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedWorker, "send", send)
        assert found(crew, 1) == {"task 0": 0}
    assert refused == ["worker 1"]


def test_workers_that_do_not_start_are_an_error_that_says_why() -> None:
    failing = Scripted(2, lambda number, attempt: Done(number), [Failed("engine: damaged")])
    with pytest.raises(InputError, match=r"^worker 1: engine: damaged$"):
        list(mapped(failing, numbered(3)))
    dying = Scripted(1, lambda number, attempt: Done(number), [LostError("was killed")] * 9)
    with pytest.raises(InputError, match=r"^worker 3: was killed before it was ready; so did 2 before it$"):
        list(mapped(dying, numbered(3)))
    assert all(worker.stopped for worker in [*failing.workers, *dying.workers])
    lucky = Scripted(1, lambda number, attempt: Done(number), [LostError("was killed")] * 2)
    assert found(lucky, 1) == {"task 0": 0}


def test_a_worker_with_other_versions_is_named_and_refused() -> None:
    own = versions()
    other = {**own, "onnxruntime": "1.0", "numpy": "2.0"}
    crew = Scripted(2, lambda number, attempt: Done(number), [Done(own), Done(other)])
    with pytest.raises(InputError) as error:
        list(mapped(crew, numbered(3)))
    assert str(error.value) == (
        f"worker 2: has numpy 2.0 where this machine has {own['numpy']}, has onnxruntime 1.0 where this machine has "
        f"{own['onnxruntime']}; install the same versions on every machine"
    )


def test_a_task_that_is_done_again_is_said_with_what_went_wrong() -> None:
    crew = Scripted(1, lambda number, attempt: Failed("no") if attempt == 1 else Done(number))
    said: list[tuple[str, str]] = []
    assert len(list(mapped(crew, [Task("a", 1)], lambda task, fault: said.append((task.name, fault))))) == 1
    assert said == [("a", "no")]


def test_tasks_that_depend_on_outcomes_are_asked_for_when_a_worker_is_free_and_outcomes_were_given_out() -> None:
    seen: list[str] = []
    crew = Scripted(2, lambda argument, times: Done(argument))

    def more() -> Task | None:
        number = sum(each.startswith("asked") for each in seen)
        seen.append(f"asked {number}" if number < 4 else "no more")
        return Task(f"task {number}", number) if number < 4 else None

    for outcome in asked(crew, more):
        seen.append(f"got {outcome.value}")
    assert seen.count("no more") == 1
    assert [each for each in seen if each.startswith("got")] == ["got 0", "got 1", "got 2", "got 3"]
    assert seen.index("asked 2") > seen.index("got 0"), "not before its worker's outcome was given out"
    assert all(worker.stopped for worker in crew.workers)


def test_a_task_that_was_asked_for_is_done_again_before_another_one_is() -> None:
    order: list[Any] = []
    crew = Scripted(1, lambda argument, times: LostError("is gone") if (argument, times) == (0, 1) else Done(argument))

    def more() -> Task | None:
        order.append("asked")
        return Task(f"task {len(order)}", order.count("asked") - 1) if order.count("asked") < 3 else None

    found = [outcome.value for outcome in asked(crew, more, lambda task, fault: order.append(fault))]
    assert found == [0, 1]
    assert order[:2] == ["asked", "worker 1 is gone"]


def test_nothing_is_begun_where_nothing_is_asked_for() -> None:
    crew = Scripted(2, lambda argument, times: Done(argument))
    assert list(asked(crew, lambda: None)) == []
    assert all(worker.stopped for worker in crew.workers)
