"""Trials side by side: nothing is tried twice, accidents are survived, and outcomes are those of one process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from heard import Heard
from jobs_of_searches import Accident, Quiet

from compress.core.settings import InputError, digest
from compress.core.store import Store
from compress.searching import side_by_side as module
from compress.searching.goal import goal_of
from compress.searching.outcome import Number, Outcome
from compress.searching.published import BEST, write
from compress.searching.search import Search, search
from compress.searching.side_by_side import Ask, Processor, Trying, Unfit, keys_of, side_by_side
from compress.searching.space import load
from compress.searching.study import Study
from compress.workers import place as places
from compress.workers.crew import Done, Failed, LostError
from compress.workers.place import Place
from compress.workers.versions import versions


class Told:
    """Workers without processes, of which the one with the oldest task answers; `answer` says what comes of it."""

    def __init__(self, size: int, answer: Callable[[Ask, int], Any]) -> None:
        self.size, self.answer, self.asked, self.most = size, answer, list[Ask](), 0
        self.times: Counter[str] = Counter()
        self.line: deque[Worker] = deque()

    def start(self) -> Worker:
        return Worker(self)

    def ready(self, workers: Sequence[Any]) -> list[Any]:
        fresh = [each for each in workers if each.ask is None]
        self.most = max(self.most, len(workers) - len(fresh))
        return fresh or [next(each for each in self.line if each in workers)]


class Worker:
    name = "worker 1"

    def __init__(self, crew: Told) -> None:
        self.crew, self.ask = crew, None

    def send(self, ask: Ask) -> None:
        self.ask = ask
        self.crew.asked.append(ask)
        self.crew.line.append(self)

    def reply(self) -> Done | Failed:
        if self.ask is None:
            return Done(versions())
        self.crew.line.remove(self)
        ask, self.ask = self.ask, None
        self.crew.times[digest(ask.picked)] += 1
        given = self.crew.answer(ask, self.crew.times[digest(ask.picked)])
        if isinstance(given, LostError):
            raise given
        return given if isinstance(given, Failed) else Done(given)

    def stop(self) -> None:
        pass


@pytest.fixture
def searching(workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Lets workers answer as they are told: `searching(answer)` gives the search and its workers."""
    opened: list[Study] = []

    def make(answer: Callable[[Ask, int], Any], most_trials: int | None = None, seconds: float = 1e6) -> Any:
        shop = workshop({"kl": "46"})
        shop.listener = Heard()
        crew = Told(2, answer)
        monkeypatch.setattr(places, "LocalCrew", lambda size, make, heard: crew)
        study = Study(tmp_path / "s.sqlite3", shop.space, 1, 0)
        opened.append(study)
        return Search(shop, study, lambda *args: None, seconds, most_trials), crew

    yield make
    for each in opened:
        each.close()


def measured(ask: Ask, times: int = 1) -> Outcome:
    """A trial that kept everything."""
    return Outcome(dict(ask.picked), "measured", found={"latency": Number(0.5)}, values=(0.5,), seconds=1.0)


def test_two_are_in_work_at_once_and_no_combination_is_tried_twice(searching) -> None:
    found, crew = searching(measured)
    side_by_side(found, Place(2))
    assert crew.most == 2
    assert len(found.study.outcomes()) == found.shop.space.size == 9
    assert set(crew.times.values()) == {1}
    assert found.ended == "every combination was tried"
    assert [len(ask.before) for ask in crew.asked] == [0, *range(8)], "each knows the outcomes before it began"
    assert found.study.in_work == {}


def test_what_is_in_work_counts_as_a_trial(searching) -> None:
    found, _crew = searching(measured, most_trials=3)
    side_by_side(found, Place(2))
    assert len(found.study.outcomes()) == 3
    assert found.ended == "3 trials"
    assert found.trials_left() == 0


def test_time_counts_once_where_two_work_at_once(searching, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("compress.searching.search.time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    found, _crew = searching(measured, seconds=6.0)
    side_by_side(found, Place(2))
    assert found.ended.endswith("s of trials")
    assert len(found.study.outcomes()) < found.shop.space.size
    assert found.study.seconds == found.spent


def test_a_worker_that_is_lost_is_replaced_and_what_is_lost_twice_is_set_aside(searching) -> None:
    def answer(ask: Ask, times: int) -> Any:
        if ask.picked["prune-ffn.ratio"] == 0.5 and ask.picked["prune-heads used"] is False:
            return LostError("was killed by SIGKILL")
        return LostError("was killed by SIGKILL") if ask.number == 0 and times == 1 else measured(ask)

    found, _crew = searching(answer)
    side_by_side(found, Place(2))
    outcomes = found.study.outcomes()
    assert len(outcomes) == 9
    (refused,) = [each for each in outcomes if each.state == "refused"]
    assert refused.picked == {"prune-ffn.ratio": 0.5, "prune-heads used": False}
    assert refused.reason == "worker 1 was killed by SIGKILL; it failed twice and was set aside"
    assert refused.excess == 100
    assert outcomes[0].state == "measured"
    assert "trial 0: worker 1 was killed by SIGKILL; begun again" in found.shop.listener.lines
    assert f"trial {refused.number}: refused: {refused.reason}, 0 s" in found.shop.listener.lines


def test_a_search_whose_first_combinations_all_fail_ends(searching) -> None:
    found, _crew = searching(lambda ask, times: Failed("RuntimeError: no kernel"))
    said = "^the first 3 combinations that were tried failed, the last one: RuntimeError: no kernel$"
    with pytest.raises(InputError, match=said):
        side_by_side(found, Place(2))
    assert len(found.study.outcomes()) == 3


def test_what_a_machine_lacks_ends_the_search_and_its_trials_come_first_the_next_time(searching) -> None:
    found, crew = searching(lambda ask, times: Unfit("store: the disk is full"))
    with pytest.raises(InputError, match=r"^store: the disk is full$"):
        side_by_side(found, Place(2))
    begun = [ask.picked for ask in crew.asked]
    assert len(begun) == 2
    assert found.study.outcomes() == []
    found.study.close()
    found, crew = searching(measured)
    side_by_side(found, Place(2))
    assert [ask.picked for ask in crew.asked[:2]] == begun


@pytest.fixture
def trying(workshop, tmp_path: Path) -> Callable[..., Trying]:
    """What a worker is made of."""

    def make(kind: type[Trying] = Trying, **changes: Any) -> Trying:
        shop = workshop({"kl": "50"})
        given = {
            "space": shop.space, "objectives": ("latency",), "limits": shop.goal.limits,
            "mark": module.Mark(str(shop.store.root)), "folder": str(Path.cwd()), "output": str(tmp_path),
            "keys": keys_of(shop), "processor": Processor.here(),
        }  # fmt: skip
        return kind(**{**given, **changes})

    return make


def test_a_worker_tries_what_one_process_does(trying, searched) -> None:
    first, said = searched.found.trials[0], list[str]()
    sent = pickle.loads(pickle.dumps((trying(), Ask(7, first.picked, tuple(searched.found.trials)))))
    made = sent[0](said.append)(sent[1])
    assert (made.state, made.artifact, made.found["kl"]) == (first.state, first.artifact, first.found["kl"])
    assert said
    assert all(line.startswith("trial 7: ") for line in said)


def test_a_worker_with_other_files_or_another_processor_is_refused(trying) -> None:
    with pytest.raises(InputError, match=r"its files or its packages are not those that the command has; copy them$"):
        trying(keys=("a", "b", "c"))(print)
    other = Processor("Slow 1", ("avx2",))
    said = r"^its processor is .*, that of the command Slow 1 \(avx2\); a time on one is no time on the other, so use "
    with pytest.raises(InputError, match=said + r"machines of one kind, or search for what is no time"):
        trying(processor=other)(print)
    assert str(Processor("Old", ())) == "Old (no vector instructions)"
    assert trying(processor=None)(print)


def test_an_error_of_the_machine_is_told_from_one_of_a_combination(trying, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.searching import trial

    def full(*args: Any) -> Any:
        raise OSError(28, "No space left on device")

    tried = trying()(print)
    with monkeypatch.context() as patch:
        patch.setattr(trial, "Trial", full)
        assert tried(Ask(0, {"prune-ffn.ratio": 0.25, "prune-heads used": False}, ())) == Unfit(
            "OSError: [Errno 28] No space left on device"
        )


def searched_by(space: Path, folder: Path, place: Place | None, listener: Any, **more: Any) -> Any:
    """A search of the whole space."""
    goal = goal_of({"kl": "50"}, ["latency"], {})
    return search(
        load(space),
        goal,
        Store(folder / "store"),
        folder / "out",
        listener,
        seconds=1e6,
        write=write,
        place=place,
        **more,
    )


def without_times(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What trials came to but for times, by their combination."""
    return {
        digest(each.picked): (
            each.state, each.reason, each.lacks, each.excess, each.size_bytes, each.artifact, each.judged,
            {name: number for name, number in each.found.items() if name != "latency"},
        )
        for each in outcomes
    }  # fmt: skip


@pytest.fixture(scope="module")
def alone(small_space: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process finds."""
    return searched_by(small_space, tmp_path_factory.mktemp("alone"), None, Heard())


@pytest.mark.slow
def test_two_workers_find_what_one_process_does_and_make_nothing_twice(
    small_space: Path, alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Trying", Quiet)
    heard = Heard()
    two = searched_by(small_space, tmp_path / "two", Place(2), heard)
    assert len(alone.trials) == len(two.trials) == 4
    assert without_times(alone.trials) == without_times(two.trials)
    assert two.ended == "every combination was tried"
    assert (tmp_path / "two" / "out" / BEST).exists()
    made = [line.rpartition("made ")[2] for line in heard.lines if ": made " in line]
    assert len(made) == len(set(made))


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_a_poison_combination_is_set_aside(
    small_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Trying", Accident)
    heard = Heard()
    found = searched_by(small_space, tmp_path, Place(2), heard)
    assert len(found.trials) == 4
    poison = [each for each in found.trials if "it failed twice and was set aside" in each.reason]
    assert [each.picked for each in poison] == [{"prune-ffn.ratio": 0.5, "prune-heads used": False}]
    assert "was killed by SIGKILL" in poison[0].reason
    assert any("was killed by SIGKILL; begun again" in line and line.startswith("trial 0: ") for line in heard.lines)
    assert found.trials[0].state == "measured"
    assert found.best is not None


@pytest.mark.slow
def test_a_ray_cluster_finds_what_one_process_does(
    small_space: Path, alone: Any, tmp_path: Path, ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Trying", Quiet)
    two = searched_by(small_space, tmp_path / "two", Place(), Heard())
    assert without_times(alone.trials) == without_times(two.trials)


def test_a_worker_imports_nothing_heavy_before_it_has_the_lease_for_work() -> None:
    program = (
        "import sys, compress.searching.side_by_side\n"
        "print({'torch', 'numpy', 'onnxruntime', 'optuna'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
