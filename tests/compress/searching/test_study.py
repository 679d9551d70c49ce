"""The study: proposals are new, outcomes come back as they were told, and a killed trial is asked for again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compress.core.settings import InputError
from compress.searching.outcome import Number, Outcome
from compress.searching.space import Space, of_value
from compress.searching.study import Study

pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'optuna>=5'")
TEXT = """
model: {checkpoint: .}
passes:
  - a: {x: {between: [0.1, 0.3], step: 0.1}, n: {between: [2, 6], step: 2}}
  - b: {how: {choose: [[1], {k: 2}]}}
    optional: true
engines: {cpu: []}
"""


@pytest.fixture
def space() -> Space:
    """27 combinations, some of which lack a choice."""
    return of_value(yaml.safe_load(TEXT), Path("s.yaml"))


@pytest.fixture
def study(space: Space, tmp_path: Path):
    """A study of one objective."""
    made = Study(tmp_path / "studies" / "s.sqlite3", space, 1, seed=0)
    yield made
    made.close()


def measured(picked: dict, value: float) -> Outcome:
    """A trial that kept everything."""
    return Outcome(picked, "measured", found={"latency": Number(value, (0.5, 2.0))}, values=(value,))


def test_the_first_trial_takes_the_first_of_every_choice(study: Study, space: Space) -> None:
    asked = study.ask()
    assert asked is not None
    assert asked[1] == space.first() == {"a.x": 0.1, "a.n": 2, "b used": True, "b.how": [1]}


def test_every_combination_is_proposed_once_and_then_none(study: Study, space: Space) -> None:
    seen = []
    while (asked := study.ask()) is not None:
        seen.append(asked[1])
        study.tell(asked[0], measured(asked[1], sum(map(ord, str(asked[1]))) / 1e4))
    assert len(seen) == space.size == 27
    assert len({str(sorted(each.items(), key=str)) for each in seen}) == 27
    assert all(("b.how" in each) == each["b used"] for each in seen)


def test_outcomes_come_back_as_they_were_told_whatever_came_of_them(study: Study) -> None:
    told = []
    for made in (
        lambda picked: measured(picked, 0.25),
        lambda picked: Outcome(picked, "stopped", reason="kl", lacks=("kl",), excess=0.5, judged=("kl",)),
        lambda picked: Outcome(picked, "refused", reason="none is left", excess=100.0),
    ):
        trial, picked = study.ask()  # type: ignore[misc]
        told.append(made(picked))
        study.tell(trial, told[-1])
    assert study.outcomes() == told
    assert [each.state.name for each in study.study.trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [dict(each.constraints) for each in study.study.trials] == [
        {"budget": 0.0}, {"budget": 0.5}, {"budget": 100.0},
    ]  # fmt: skip


def test_a_trial_that_a_kill_left_unfinished_is_asked_for_again_first(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    first = Study(path, space, 1, seed=0)
    trial, picked = first.ask()  # type: ignore[misc]
    first.tell(trial, measured(picked, 0.5))
    _, lost = first.ask()  # type: ignore[misc]
    first.close()  # as a kill does: nothing was told
    again = Study(path, space, 1, seed=0)
    assert [each.picked for each in again.outcomes()] == [picked]
    assert again.ask()[1] == lost  # type: ignore[index]
    again.close()


def test_a_kill_before_any_choice_loses_no_first_trial(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    first = Study(path, space, 1, seed=0)
    first.study.ask()
    first.close()
    again = Study(path, space, 1, seed=0)
    assert again.ask()[1] == space.first()  # type: ignore[index]
    again.close()


def test_proposals_are_the_same_however_often_a_study_was_opened(space: Space, tmp_path: Path) -> None:
    def proposals(path: Path, *, reopened: bool) -> list[dict]:
        study, found = Study(path, space, 1, seed=3), []
        for number in range(9):
            if reopened:
                study.close()
                study = Study(path, space, 1, seed=3)
            trial, picked = study.ask()  # type: ignore[misc]
            found.append(picked)
            study.tell(trial, measured(picked, 1 / (1 + number)))
        study.close()
        return found

    assert proposals(tmp_path / "a.sqlite3", reopened=False) == proposals(tmp_path / "b.sqlite3", reopened=True)


def test_two_processes_do_not_work_at_one_study(study: Study, space: Space) -> None:
    with pytest.raises(InputError, match="another search works at this study; wait for it"):
        Study(study.path, space, 1, seed=0)


def test_a_half_made_file_is_not_taken_for_a_study(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    path.with_suffix(".draft").write_bytes(b"half")
    made = Study(path, space, 1, seed=0)
    assert made.ask() is not None
    made.close()


def test_importance_names_the_choice_that_decides_and_is_empty_where_nothing_can_be_said(study: Study) -> None:
    assert study.importances(0) == {}
    for _ in range(12):
        trial, picked = study.ask()  # type: ignore[misc]
        study.tell(trial, measured(picked, picked["a.n"]))
    found = study.importances(0)
    assert max(found, key=lambda name: found[name]) == "a.n"
    assert sum(found.values()) == pytest.approx(1)
