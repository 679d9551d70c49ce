"""A report is the same whoever drew and scored: one process, or any number of workers, whatever happens to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from compress import api
from compress.core.listener import Silent
from compress.core.settings import InputError, plain
from compress.measure import slices
from compress.models.families import reference
from compress.verifying import spread
from compress.workers import place
from compress.workers.crew import unheard
from compress.workers.local import LocalCrew

TIMES = ("ms_per_picture", "ms_per_picture_ci95", "reference_ms_per_picture", "speedup", "speedup_ci95")
PICTURES = 70  # three slices, the last one short


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two checkpoints that differ, with guidance."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        model = tiny_model(layers=1, grid=(4, 4))
        if seed:
            model.transformer.head.weight.data.mul_(1.1)
        reference.save(model, folder)
        folders.append(str(folder))
    return folders[0], folders[1]


def report(models: tuple[str, str], **more: Any) -> Any:
    """Everything that `--json` prints but times."""
    settings = {"tokens": "drawn", "held_out": PICTURES, "samples": PICTURES, "threads": 1, "than": models[0], **more}
    found = plain(api.verify(*models, **settings))
    found["decoding"] = {name: value for name, value in found["decoding"].items() if name not in TIMES}
    return found


@pytest.fixture(scope="module")
def alone(models: tuple[str, str]) -> Any:
    return report(models)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_give_the_report_of_one_process(workers: int, models, alone, here) -> None:
    assert report(models, on=f"local:{workers}") == alone
    first, second = here
    assert [(ask.role, ask.part.words) for ask in first.tasks] == [
        ("reference", "pictures 0 to 31 drawn"),
        ("reference", "pictures 32 to 63 drawn"),
        ("reference", "pictures 64 to 69 drawn"),
    ]
    works = {(ask.role, ask.part.work) for ask in second.tasks}
    both = {(role, work) for role in ("reference", "candidate") for work in ("drawn", "scored", "unconditional")}
    assert works == both | {("than", "scored")}


def test_nothing_that_workers_did_is_done_again(models, alone, here, monkeypatch) -> None:
    """So the test above does not compare one process with itself."""
    usual, done = slices.Slice.done, []

    def counted(part, model, given):
        done.append(part)
        return usual(part, model, given)

    monkeypatch.setattr(slices.Slice, "done", counted)
    report(models, on="local:2")
    assert len(done) == sum(len(crew.tasks) for crew in here)


def test_a_slice_that_fails_twice_is_named_and_the_others_are_done(models, here, monkeypatch) -> None:
    usual, done = slices.Slice.done, []

    def faulty(part, model, given):
        if (part.work, part.first) == ("drawn", 32):
            raise ValueError("no picture 32\nand more")
        done.append(part.first)
        return usual(part, model, given)

    monkeypatch.setattr(slices.Slice, "done", faulty)
    with pytest.raises(InputError) as error:
        report(models, on="local:2")
    assert str(error.value) == (
        f"verify: 1 of 3 slices failed twice and were set aside: reference {models[0]}, pictures 32 to 63 drawn "
        f"(ValueError: no picture 32); all others were done, but there is no report without these"
    )
    assert sorted(done) == [0, 64]


def test_a_worker_that_is_killed_is_replaced_and_changes_no_number(models, alone, monkeypatch) -> None:
    """Real processes: the first one to answer is killed while it does its next slice."""
    killed: list[int] = []

    class Dying(LocalCrew):
        def ready(self, workers):
            found = super().ready(workers)
            busy = [worker for worker in found if worker in seen]
            seen.update(found)
            if busy and not killed:
                killed.append(busy[0].process.pid)
                os.kill(busy[0].process.pid, signal.SIGKILL)
                busy[0].process.join()
            return found

    seen: set[Any] = set()
    monkeypatch.setattr(place, "LocalCrew", Dying)
    few = {"tokens": "drawn", "held_out": 34, "samples": 2, "than": None}
    assert report(models, on="local:2", **few) == report(models, **few)
    assert len(killed) == 1


def test_progress_says_how_many_pictures_how_fast_and_how_long(models, here) -> None:
    titles: list[str] = []
    said: list[tuple[int, int, set[str]]] = []

    class Watching(Silent):
        def work(self, title):
            titles.append(title)
            return nullcontext(lambda done, total, values: said.append((done, total, set(values))))

    report(models, on="local:1", listener=Watching())
    assert titles[0] == f"draw and score {PICTURES} pictures"
    beside = {"pictures/s", "minutes left"}
    assert said[:4] == [(0, 70, set()), (32, 70, beside), (64, 70, beside), (70, 70, beside)]


def test_open_models_and_other_places_are_refused(models, tiny_model) -> None:
    with pytest.raises(InputError, match=r"^on: workers open models by name; give the name or the folder of the candi"):
        api.verify(models[0], tiny_model(), tokens="drawn", on="local:1")
    with pytest.raises(InputError, match=r"^--on: 'torchrun:2' is no place to work; write local:N"):
        api.verify(*models, tokens="drawn", on="torchrun:2")


def test_a_worker_with_another_pytorch_is_refused(models, here, monkeypatch) -> None:
    monkeypatch.setattr(spread.torch, "__version__", "0.0")
    working = spread.Working({}, None, 1, "9.9")
    with pytest.raises(InputError, match=r"^has torch 0\.0 where the command has 9\.9; install the same"):
        working(unheard)


def test_an_engine_that_is_exchanged_meanwhile_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="the engine was exchanged while it was compared; begin again"):
        spread.Source(str(tmp_path), None, "other").open(1, tmp_path)
