"""The end of a search: what could be best is timed beside each other, once, and that decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from heard import Heard

from compress.core.store import Store
from compress.measure.speed.timing import Timings, paired
from compress.searching import comparison
from compress.searching import search as driver
from compress.searching.comparison import (
    REFERENCE,
    applied,
    candidates,
    compare,
    deciding,
    fastest,
    share,
    timed_together,
    undecided,
)
from compress.searching.goal import goal_of
from compress.searching.outcome import Number, Outcome
from compress.searching.published import BEST, PAGE, write
from compress.searching.search import search
from compress.searching.space import load


def trial(number: int, latency: float, spread: float = 0.01, **more: Any) -> Outcome:
    """A measured trial with this time."""
    time_of = Number(latency, (latency - spread, latency + spread))
    given = {"picked": {"a": number}, "state": "measured", "number": number, "found": {"latency": time_of}}
    return Outcome(**{**given, "values": (latency,), **more})


def test_what_overlaps_the_fastest_or_is_not_far_from_it_could_be_best() -> None:
    trials = [
        trial(0, 0.20), trial(1, 0.29), trial(2, 0.32), trial(3, 0.35, spread=0.10),
        trial(4, 0.10, lacks=("kl",)), trial(5, 0.11, state="stopped"),
    ]  # fmt: skip
    assert [each.number for each in candidates(trials)] == [0, 1, 3]
    assert candidates(trials[4:]) == []
    alike = [trial(number, 0.2 + number / 1000) for number in reversed(range(9))]
    assert [each.number for each in candidates(alike)] == [0, 1, 2, 3, 4], "at most so many, the likeliest first"


class Shop:
    """What a comparison asks of a workshop, but for its engines."""

    def __init__(self, names: tuple[str, ...] = ("latency",)) -> None:
        self.goal = goal_of({"kl": "50"}, names, {})


class Kept:
    """A study of outcomes."""

    path = Path("s.sqlite3")

    def __init__(self, *outcomes: Outcome) -> None:
        self.told, self.compared = [*outcomes], None

    def outcomes(self) -> list[Outcome]:
        return [*self.told]

    def compare(self, found: Any) -> None:
        self.compared = found


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[int, float]], list[list[int]]]:
    """Let engines take these times beside each other, that of the reference being 1; the trials of each comparison."""

    def set_times(times: Mapping[int, float]) -> list[list[int]]:
        asked: list[list[int]] = []

        def together(shop: Any, chosen: list[Outcome]) -> tuple[Timings, int]:
            asked.append([each.number for each in chosen])
            own = {str(each.number): (times[each.number],) * 8 for each in chosen}
            return Timings({**own, REFERENCE: (1.0,) * 8}), 1

        monkeypatch.setattr(comparison, "timed_together", together)
        return asked

    return set_times


def test_the_rounds_decide_where_single_timings_were_the_other_way_round(rounds) -> None:
    study = Kept(trial(0, 0.20), trial(1, 0.25), trial(2, 0.90))
    asked = rounds({0: 0.40, 1: 0.32})
    made = compare(Shop(), study)  # type: ignore[arg-type]
    assert asked == [[0, 1]]
    assert [each.trial for each in made.rows] == [1, 0]
    assert made.numbers[0].alone.value == 0.20
    assert made.numbers[0].beside.value == pytest.approx(0.40)
    assert made.numbers[0].speed.value == pytest.approx(0.8)
    assert (made.batch, made.rounds, made.known) == (1, 8, 3)
    outcomes = applied(study.outcomes(), made)
    assert fastest(outcomes, made).number == 1
    assert outcomes[1].values == (made.numbers[1].beside.value,)
    assert outcomes[2] == study.told[2]
    assert made.lines() == [
        "beside each other, 8 rounds at batch 1: trial 1 is the fastest, 0.320 of the reference's time",
        "  trial 0: 0.400; 0.80x (0.80 to 0.80) against the fastest",
    ]
    assert compare(Shop(), study) is None, "nothing is timed twice"  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_later_trial_that_could_be_best_is_compared_and_a_slow_one_is_not(rounds) -> None:
    study = Kept(trial(0, 0.20), trial(1, 0.25))
    asked = rounds({0: 0.40, 1: 0.32, 3: 0.30})
    compare(Shop(), study)  # type: ignore[arg-type]
    study.told.append(trial(2, 0.60))
    assert undecided(Shop(), study) == []  # type: ignore[arg-type]
    study.told.append(trial(3, 0.45))
    before = comparison.kept_comparison(study)  # type: ignore[arg-type]
    assert fastest(applied(study.outcomes(), before), before).number == 1, "it is not faster by its own time"
    made = compare(Shop(), study)  # type: ignore[arg-type]
    assert asked == [[0, 1], [1, 0, 3]]
    assert fastest(applied(study.outcomes(), made), made).number == 3


def test_a_comparison_is_shown_until_a_later_trial_is_faster_by_far(rounds) -> None:
    study = Kept(trial(0, 0.20), trial(1, 0.25))
    rounds({0: 0.40, 1: 0.32})
    made = compare(Shop(), study)  # type: ignore[arg-type]
    assert deciding(made, fastest(applied(study.outcomes(), made), made)) is made
    assert deciding(made, None) is made
    study.told.append(trial(2, 0.10))
    assert compare(Shop(), study) is None  # type: ignore[arg-type]
    winner = fastest(applied(study.outcomes(), made), made)
    assert (winner.number, deciding(made, winner)) == (2, None)


def test_nothing_is_compared_where_time_does_not_decide_or_one_trial_is_left(rounds) -> None:
    asked = rounds({})
    alike = Kept(trial(0, 0.20), trial(1, 0.20))
    assert compare(Shop(("size", "latency")), alike) is None  # type: ignore[arg-type]
    assert compare(Shop(), Kept(trial(0, 0.20), trial(1, 0.90))) is None  # type: ignore[arg-type]
    assert compare(Shop(), Kept()) is None  # type: ignore[arg-type]
    assert asked == []


def test_engines_of_trials_and_of_the_reference_draw_in_the_same_rounds(workshop, searched) -> None:
    shop, kept = workshop({"kl": "50"}), [each for each in searched.found.trials if each.kept][:2]
    timings, batch = timed_together(shop, kept)
    assert [*timings.seconds] == [*(str(each.number) for each in kept), REFERENCE]
    assert {len(each) for each in timings.seconds.values()} >= {len(timings.seconds[REFERENCE])}
    assert len(timings.seconds[REFERENCE]) >= 6
    assert batch == 1
    low, high = share(timings, str(kept[0].number)).ci95
    assert 0 < low <= high


def test_best_yaml_is_the_trial_that_is_faster_beside_the_other_not_the_one_that_was_timed_faster(
    small_space: Path, searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = driver.evaluate

    def wrongly_timed(shop: Any, picked: Any, before: Any) -> Outcome:
        made, alone = real(shop, picked, before), 0.2 + 0.05 * len(before)
        number = Number(alone, (alone - 0.01, alone + 0.01))
        return replace(made, state="measured", lacks=(), found={**made.found, "latency": number}, values=(alone,))

    def slept(runners: Any, folders: Any, repeats: int, *rest: Any) -> Timings:
        seconds = {name: {REFERENCE: 0.02, "0": 0.012}.get(name, 0.008) for name in runners}
        now = [0.0]
        calls = {name: partial(lambda took: now.append(now[-1] + took), took) for name, took in seconds.items()}
        return paired(calls, repeats, clock=lambda: now[-1])

    monkeypatch.setattr(driver, "evaluate", wrongly_timed)
    monkeypatch.setattr(comparison, "interleaved", slept)
    heard, goal = Heard(), goal_of({"kl": "47"}, ["latency"], {})
    found = search(
        load(small_space), goal, Store(searched.store), tmp_path / "out", heard, seconds=1e6, most_trials=2,
        write=write,
    )  # fmt: skip
    assert [each.alone.value for each in found.compared.rows] == [0.25, 0.2], "alone the slower one was timed faster"
    second = found.trials[1]
    assert found.best == second
    assert second.number != 0
    assert (tmp_path / "out" / BEST).read_text().startswith(f"# Trial {second.number} of {small_space}: ")
    assert any(f"trial {second.number} is the fastest" in line for line in heard.lines)
    page = (tmp_path / "out" / PAGE).read_text()
    assert "The best beside each other" in page
    assert "0.67x (0.67 to 0.67) against the fastest" in page
    monkeypatch.setattr(comparison, "interleaved", lambda *args: pytest.fail("timed again"))
    again = search(
        load(small_space), goal, Store(searched.store), tmp_path / "out", heard, seconds=1e6, most_trials=2,
        write=write,
    )  # fmt: skip
    assert again.best == found.best
    assert again.compared == found.compared
