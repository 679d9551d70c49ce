"""search.html: whole, escaped, and with everything that it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compress.searching.found import Found
from compress.searching.goal import goal_of
from compress.searching.outcome import Number, Outcome
from compress.searching.page import html


def outcome(number: int, latency: float, kl: float, **more: object) -> Outcome:
    """A measured trial."""
    given: dict[str, object] = {
        "picked": {"a.x": number, "b used": True}, "state": "measured", "number": number, "size_bytes": 10**6,
        "found": {"latency": Number(latency, (latency / 2, latency * 2)), "kl": Number(kl, (kl / 2, kl * 2))},
        "values": (latency,), "seconds": 12.0,
    }  # fmt: skip
    return Outcome(**{**given, **more})  # type: ignore[arg-type]


@pytest.fixture
def goal():
    """Latency below a KL."""
    return goal_of({"kl": "0.1"}, ["latency"], {})


@pytest.fixture
def found() -> Found:
    """Two trials that keep the budget, one that does not, and one that makes no engine."""
    trials = (
        outcome(0, 0.5, 0.02),
        outcome(1, 0.25, 0.05),
        outcome(2, 0.2, 0.2, lacks=("cpu: kl",), excess=1.0),
        Outcome({"a.x": 9, "b used": True}, "refused", 3, reason="prune: <none> is left", excess=100.0),
    )
    return Found(
        "s.yaml", "store/studies/s.sqlite3", ("latency",), {"kl": 0.1}, 40, 48.0, trials[1], None, ("latency", "kl"),
        (trials[2], trials[1], trials[0]), {"latency": {"a.x": 0.9, "b used": 0.1}}, trials, "4 trials",
    )  # fmt: skip


def test_the_page_has_the_trade_off_the_importance_and_every_trial(found: Found, goal) -> None:
    page = html(found, goal)
    for said in (
        "Trial 1: 0.25 of the reference&#x27;s time", "kl against time / reference&#x27;s of every measured trial",
        "Importance of each choice for time / reference&#x27;s", "90 %", "4 trials of 40 combinations in 48 s",
        "Every trial, with the choices in which they differ",
    ):  # fmt: skip
        assert said in page
    assert "prune: &lt;none&gt; is left" in page
    assert page.count('<th scope="row">3</th>') == 1, "in the table of trials alone"


def test_choices_that_did_not_move_have_no_column(found: Found, goal) -> None:
    trials = html(found, goal).rpartition("Every trial, with")[2]
    assert ">a.x</th>" in trials
    assert ">b used</th>" not in trials


def test_without_a_trial_that_keeps_the_budget_the_page_says_what_the_nearest_lacks(found: Found, goal) -> None:
    page = html(replace(found, best=None, nearest=found.trials[2]), goal)
    assert "No trial keeps every budget" in page
    assert "Trial 2 lacks: cpu: kl" in page
    assert "best.yaml" not in page


def test_too_few_trials_say_so(found: Found, goal) -> None:
    empty = replace(found, best=None, front=(), trials=(), importance={"latency": {}}, axes=("latency",))
    page = html(empty, goal)
    assert "No trial has ended yet" in page
    assert "too few trials were measured to say which choices decide it" in page
