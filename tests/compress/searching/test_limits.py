"""Budgets that contradict each other are refused by their names."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError
from compress.searching.limits import bytes_of, check, objectives, pairs


def test_budgets_are_read_by_their_quantity() -> None:
    assert pairs(["nll_drift=1%", "size = 8MB"]) == {"nll_drift": "1%", "size": "8MB"}


@pytest.mark.parametrize("text", ["nll_drift", "=1%", "nll_drift=", ""])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is no limit; write QUANTITY=LIMIT, for example nll_drift=1%"):
        pairs([text])


def test_two_limits_on_one_quantity_are_refused() -> None:
    with pytest.raises(InputError, match="--budget kl: has two limits, 1 and 2; give one"):
        pairs(["kl=1", "kl=2"])
    with pytest.raises(InputError, match="--budget kl: has two limits, 1 and 3 in the space's gate; give one"):
        check({"kl": "1"}, ["latency"], {"kl": 3})


@pytest.mark.parametrize("name", ["latency_ms", "speedup"])
def test_a_limit_on_what_is_made_small_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"--budget {name}: latency is made as small as it can be"):
        check({name: "1"}, ["latency"], {})
    with pytest.raises(InputError, match=f"the space's gate.{name}: latency is made as small as it can be"):
        check({}, ["latency"], {name: 2})
    with pytest.raises(InputError, match="--budget kl: kl is made as small as it can be"):
        check({"kl": "1"}, ["size", "kl"], {})


def test_one_objective_without_a_budget_is_refused_and_two_are_not() -> None:
    with pytest.raises(InputError, match="--minimize latency: nothing holds it back; give a limit such as"):
        check({}, ["latency"], {"decide": "estimate"})
    check({}, ["latency", "nll_drift"], {})
    check({}, ["latency"], {"kl": 1})


def test_an_objective_stands_once_whatever_it_is_called() -> None:
    assert objectives(["latency_ms", "size"]) == ("latency", "size")
    with pytest.raises(InputError, match="--minimize latency: stands twice; give it once"):
        objectives(["latency", "latency_ms"])


def test_bytes_limit_the_size_alone() -> None:
    assert bytes_of({"size": "8MB", "kl": "1"}) == 8e6
    assert bytes_of({"size": "1.5 MiB"}) == 1.5 * 2**20
    assert bytes_of({"size": "30%"}) is None
    with pytest.raises(InputError, match="--budget kl=8MB: only size is limited in bytes"):
        bytes_of({"kl": "8MB"})
