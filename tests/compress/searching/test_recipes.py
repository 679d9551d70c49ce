"""Every value of every choice is held to what a recipe may be; contradictions are left to trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.core.settings import ContradictionError, InputError
from compress.searching.recipes import check, recipe_of
from compress.searching.space import of_value


def space_of(passes: list[Any], chain: list[Any] | None = None):
    """A space on a model whose files nobody reads."""
    value = {
        "model": {"checkpoint": "digits"},
        "passes": passes,
        "engines": {"cpu": chain or [{"export": {"target": "onnxruntime"}}]},
    }
    return of_value(value, Path("s.yaml"))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"prune-ffn": {"ratio": {"choose": [0.1, 1.5]}}}, "prune-ffn.ratio: 1.5 is out of range"),
        ({"prune-ffn": {"ratio": {"between": [0.5, 1.5], "step": 0.5}}}, "prune-ffn.ratio: 1.5 is out of range"),
        ({"prune-ffn": {"ratio": 0.1, "score": {"choose": ["taylor", "tayler"]}}}, "score: 'tayler' is not one of"),
        ({"prune-ffn": {"ration": {"choose": [0.1, 0.2]}}}, "unknown key 'ration'; did you mean 'ratio'?"),
        ({"prune-fnn": {"ratio": {"choose": [0.1, 0.2]}}}, "no pass is called 'prune-fnn'; did you mean 'prune-ffn'?"),
    ],
)
def test_a_value_that_no_recipe_may_have_is_refused_before_anything_is_made(step: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        check(space_of([step]))
    assert str(refused.value).startswith("s.yaml: passes[0]")
    assert said in str(refused.value)


def test_a_step_that_cannot_be_left_out_is_refused() -> None:
    space = space_of([], [{"export": {"target": "onnxruntime"}, "optional": True}])
    with pytest.raises(InputError, match=r"engines.cpu\[0\] export.optional: it cannot be left out \(s.yaml: engines"):
        check(space)


def test_a_combination_that_contradicts_itself_is_left_to_a_trial() -> None:
    both = {"count": {"choose": [1, 2]}, "ratio": {"choose": [0.0, 0.5]}}
    space = space_of([{"prune-layers": both}])
    assert check(space).steps[0].setting.count == 1
    with pytest.raises(ContradictionError, match="give exactly one of them"):
        recipe_of(space, {"prune-layers.count": 1, "prune-layers.ratio": 0.5})


def test_another_combination_is_looked_for_where_the_first_contradicts_itself() -> None:
    space = space_of([{"prune-layers": {"count": {"choose": [0, 2]}}}])
    assert check(space).steps[0].setting.count == 2


def test_a_space_without_a_recipe_is_refused_with_the_contradiction() -> None:
    space = space_of([{"prune-layers": {"count": {"choose": [1, 2]}, "ratio": 0.5}}])
    with pytest.raises(InputError, match=r"give exactly one of them, above 0; none of 200 combinations of s.yaml"):
        check(space)
