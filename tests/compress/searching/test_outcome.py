"""What follows from outcomes: the best, the nearest, the front, and what is not worth training."""

from __future__ import annotations

from typing import Any

from compress.searching.outcome import Number, Outcome, best, front, hopeless, nearest


def outcome(number: int, *values: float, **more: Any) -> Outcome:
    """A measured trial with these two quantities."""
    found = {name: Number(value) for name, value in zip(("latency", "kl"), values, strict=False)}
    given = {"picked": {"a": number}, "state": "measured", "number": number, "found": found, "values": values[:1]}
    return Outcome(**{**given, **more})


def test_the_best_keeps_every_budget_and_the_earlier_of_equals_wins() -> None:
    trials = [outcome(0, 0.5), outcome(1, 0.3, lacks=("kl",), excess=0.5), outcome(2, 0.4), outcome(3, 0.4)]
    assert best(trials) == trials[2]
    assert best(trials[1:2]) is None
    assert best([]) is None


def test_the_nearest_lacks_least() -> None:
    trials = [outcome(0, state="refused", excess=100.0), outcome(1, excess=0.5), outcome(2, excess=0.2)]
    assert nearest(trials) == trials[2]
    assert nearest([]) is None


def test_the_front_is_what_no_other_trial_beats_in_order_of_the_first_quantity() -> None:
    trials = [
        outcome(0, 0.5, 0.1),
        outcome(1, 0.3, 0.3),
        outcome(2, 0.4, 0.4),  # beaten by 1
        outcome(3, 0.2, 0.9),
        outcome(4, 0.1, 0.01, state="stopped"),
        outcome(5, 0.1),
    ]
    assert [each.number for each in front(trials, ("latency", "kl"))] == [3, 1, 0]
    assert [each.number for each in front(trials, ("latency",))] == [5]


def judged(number: int, start: float, *, breached: bool, training: str = "t") -> Outcome:
    """A trial that was trained and judged by kl."""
    return outcome(number, start=start, training=training, judged=("kl",), breached=("kl",) * breached)


def test_what_began_further_off_than_one_that_did_not_come_back_is_hopeless() -> None:
    before = [judged(0, 0.1, breached=False), judged(1, 0.3, breached=True)]
    assert hopeless(0.4, "t", "kl", before) == before[1]
    assert hopeless(0.2, "t", "kl", before) is None, "between the two nothing is known"
    assert hopeless(0.4, "another training", "kl", before) is None
    assert hopeless(0.4, "t", "nll_drift", before) is None


def test_nothing_is_hopeless_where_one_came_back_from_as_far() -> None:
    before = [judged(0, 0.5, breached=False), judged(1, 0.3, breached=True)]
    assert hopeless(0.4, "t", "kl", before) is None
    assert hopeless(0.6, "t", "kl", before) == before[1]
