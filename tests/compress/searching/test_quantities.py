"""The quantities that are known without measures are those of gates, and what is wrong is said in the same words."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from compress.core.settings import InputError
from compress.recipe.gates import keys
from compress.searching import quantities
from compress.searching.goal import goal_of
from compress.searching.limits import LATENCY, limits_of

WRONG = [
    ({"kll": "1"}, [LATENCY]),
    ({"kl": "-1"}, [LATENCY]),
    ({"nll_drift": "3"}, [LATENCY]),
    ({"kl": "some"}, [LATENCY]),
    ({"size": "9kB"}, ["sze"]),
    ({"size": "9kB"}, ["agreement"]),
    ({"decide": "lot"}, ["size"]),
    ({"speedup_batch": "1.5"}, ["size"]),
]


def test_the_table_has_every_key_of_a_gate_with_its_range_and_direction() -> None:
    fields = quantities.gate_outline().__dataclass_fields__  # type: ignore[attr-defined]
    known = {
        name: (fields[name].metadata["low"], fields[name].metadata["high"], name in quantities.OBJECTIVES)
        for name in quantities.QUANTITIES
    }
    own = {key.limit.key: (key.limit.low, key.limit.high, key.quantity.better == "lower") for key in keys()}
    assert known == own


@pytest.mark.parametrize(("budgets", "names"), WRONG)
def test_the_table_says_what_measures_say(budgets: dict[str, str], names: list[str]) -> None:
    with pytest.raises(InputError) as full:
        goal_of(budgets, names, {})
    with pytest.raises(InputError) as light:
        quantities.check(*limits_of(budgets, {}), names)
    assert str(light.value) == str(full.value)


def test_what_a_third_party_may_measure_is_left_to_the_full_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "importlib", SimpleNamespace(metadata=SimpleNamespace(entry_points=one_entry)))
    quantities.check({"beauty": 1.0}, "--budget", ["ugliness"])
    with pytest.raises(InputError, match=r"--budget.kl: -1.0 is out of range"):
        quantities.check({"beauty": 1.0, "kl": -1.0}, "--budget", [])


def one_entry(*, group: str) -> list[importlib.metadata.EntryPoint]:
    """An entry point of a third party's measure."""
    return [importlib.metadata.EntryPoint("beauty", "theirs:Beauty", group)]
