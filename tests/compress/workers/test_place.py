"""Where a user wants work done."""

from __future__ import annotations

import pytest

from compress.core.launched import Launch
from compress.core.settings import InputError
from compress.workers import place as module
from compress.workers.local import LocalCrew
from compress.workers.place import Place, opened, place_of, place_of_run, processes_of


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("local:1", Place(1)),
        ("local:1024", Place(1024)),
        ("ray", Place()),
        ("ray://head:10001", Place(address="ray://head:10001")),
        ("ray://[fd00::1]:10001", Place(address="ray://[fd00::1]:10001")),
    ],
)
def test_places_are_processes_or_a_cluster(text: str, place: Place) -> None:
    assert place_of(text) == place
    assert place.is_local == text.startswith("local")


@pytest.mark.parametrize(
    "text", ["", "local", "local:0", "local:1025", "local:x", "ray:2", "ray://head", "ray://head:0", "ray://a b:1"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        place_of(text)
    assert str(error.value) == (
        f"--on: {text!r} is no place to work; write local:N (1 to 1024 processes), ray, or ray://HOST:PORT"
    )


def test_processes_are_as_many_as_were_asked_for() -> None:
    with opened(Place(3), lambda say: lambda argument: argument) as crew:
        assert isinstance(crew, LocalCrew)
        assert crew.size == 3


def test_processes_that_train_are_asked_for_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [processes_of(text) for text in ("", "torchrun:1", "torchrun:1024")] == [1, 1, 1024]
    monkeypatch.setattr(module, "launch", lambda: Launch(rank=0, size=2, local_rank=0))
    with pytest.raises(InputError, match="torchrun has started processes already; leave 'torchrun:2' out, or torchrun"):
        processes_of("torchrun:2")


@pytest.mark.parametrize("text", ["torchrun", "torchrun:0", "torchrun:1025", "local:2", "ray", "torchrun:2x"])
def test_other_places_to_train_are_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        processes_of(text)
    assert str(error.value) == (
        f"--on: {text!r} is no place to train; write torchrun:N (1 to 1024 processes of this machine)"
    )


def test_a_recipe_is_run_by_workers_or_by_processes_that_train() -> None:
    found = [place_of_run(text) for text in ("", "torchrun:3", "local:2", "ray")]
    assert found == [(1, None), (3, None), (1, Place(2)), (1, Place())]
    with pytest.raises(InputError, match=r"^--on: 'here' is no place to work; write local:N .*; or torchrun:N, for "):
        place_of_run("here")
