"""Spaces: choices are found where they may be, and refused elsewhere in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.core.settings import InputError
from compress.recipe.shipped import SPACES, located_space, names
from compress.searching import recipes
from compress.searching.space import load, of_value

HEAD: dict[str, Any] = {
    "model": {"checkpoint": "."},
    "engines": {"cpu": [{"export": {"target": "onnxruntime"}}]},
}


def space_of(passes: list[Any], **more: Any):
    """A space with this trunk."""
    return of_value({**HEAD, "passes": passes, **more}, Path("s.yaml"))


def test_choices_have_the_names_of_reports_and_stand_in_the_order_of_the_file() -> None:
    text = """
    model: {checkpoint: .}
    passes:
      - prune-ffn: {ratio: {between: [0.1, 0.3], step: 0.1}}
        optional: true
      - prune-ffn: {ratio: {choose: [10%, 0.2]}}
      - quantize
    engines:
      cpu: [quantize: {choose: [{weights: int8}, {weights: int4}]}, export: {target: onnxruntime}, fuse: {}]
    """
    found = of_value(yaml.safe_load(text), Path("s.yaml"))
    assert [(each.name, each.kind, each.values) for each in found.choices] == [
        ("prune-ffn used", "optional", (True, False)),
        ("prune-ffn.ratio", "between", (0.1, 0.2, 0.3)),
        ("prune-ffn#2.ratio", "choose", ("10%", 0.2)),
        ("cpu.quantize", "choose", ({"weights": "int8"}, {"weights": "int4"})),
    ]
    assert found.size == (1 + 3) * 2 * 2


def test_a_combination_is_a_recipe_and_a_step_that_is_left_out_is_not_in_it() -> None:
    found = space_of(
        [{"prune-ffn": {"ratio": {"choose": [0.1, 0.2]}}, "optional": True}, {"quantize": {"weights": "int8"}}]
    )
    with_it = found.recipe({"prune-ffn used": True, "prune-ffn.ratio": 0.2})
    assert with_it == {**HEAD, "passes": [{"prune-ffn": {"ratio": 0.2}}, {"quantize": {"weights": "int8"}}]}
    assert found.recipe({"prune-ffn used": False})["passes"] == [{"quantize": {"weights": "int8"}}]
    assert [each.name for each in found.asked({"prune-ffn used": False})] == ["prune-ffn used"]


def test_whole_numbers_stay_whole_and_shares_are_as_they_were_written() -> None:
    assert space_of([{"distill": {"steps": {"between": [50, 150], "step": 50}}}]).choices[0].values == (50, 100, 150)
    shares = space_of([{"prune-ffn": {"ratio": {"between": ["10%", "40%"], "step": "10%"}}}]).choices[0].values
    assert shares == (0.1, 0.2, 0.3, 0.4)


def test_a_step_that_is_not_optional_says_so_without_a_choice() -> None:
    found = space_of([{"prune-ffn": {"ratio": {"choose": [0.1, 0.2]}}, "optional": False}])
    assert found.recipe({"prune-ffn.ratio": 0.1})["passes"] == [{"prune-ffn": {"ratio": 0.1}}]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"choose": 3}, ".choose: 3 is not a list"),
        ({"choose": [0.3]}, ".choose: [0.3] is no choice; offer two values at least, or write the value itself"),
        ({"choose": [0.3, 0.4, 0.3]}, ".choose: 0.3 stands twice"),
        ({"choose": [1, 2], "step": 1}, ": 'step' does not belong to a choice, which has choose"),
        (
            {"choose": [{"choose": [1, 2]}, 3]},
            ".choose[0]: {'choose': [1, 2]}: only settings of steps may have choices",
        ),
        ({"between": [0.1, 0.5]}, ": 'step' is missing; write for example  {between: [0.1, 0.5], step: 1}"),
        ({"between": 0.1, "step": 1}, ".between: 0.1 is not [low, high]"),
        ({"between": [0.1, 0.2, 0.3], "step": 0.1}, ".between: [0.1, 0.2, 0.3] is not [low, high]"),
        ({"between": ["a", 0.5], "step": 0.1}, ".between[0]: 'a' is not a number"),
        ({"between": [0.5, 0.5], "step": 0.1}, ".between: low 0.5 is not below high 0.5"),
        ({"between": [0.5, 0.1], "step": 0.1}, ".between: low 0.5 is not below high 0.1"),
        ({"between": [0.1, 0.5], "step": 0}, ".step: 0 is not above 0"),
        ({"between": [0.1, 0.5], "step": 0.15}, ": steps of 0.15 from 0.1 do not end at 0.5; write 0.55 or 0.40"),
        ({"between": [1, 2], "step": 5}, ": steps of 5 from 1 do not end at 2; write 6"),
        ({"between": [1, 5000], "step": 1}, ": has 5000 values; at most 1000 are searched, take a larger step"),
        (
            {"between": [1, 2], "step": 1, "log": True},
            ": 'log' does not belong to a choice, which has between and step",
        ),
    ],
)
def test_a_choice_that_is_none_is_refused(setting: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        space_of([{"prune-ffn": {"ratio": setting}}])
    assert str(refused.value).startswith(f"s.yaml: passes[0] prune-ffn.ratio{said}")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"passes": [{"prune-ffn": {"ratio": 0.1}}]}, "nothing is searched for: no setting has a choice"),
        ({"passes": [{"quantize": {}, "optional": "yes"}]}, "passes[0] quantize.optional: 'yes' is not true or false"),
        ({"passes": [{"quantize": {}, "gate": {"kl": 1}}]}, "passes[0] quantize.gate: a search judges engines alone"),
        ({"bench": {"threads": {"choose": [1, 2]}}}, "bench.threads: {'choose': [1, 2]}: only settings of steps may"),
        ({"model": {"choose": [{}, {}]}}, "model: {'choose': [{}, {}]}: only settings of steps may have choices"),
        ({"passes": {"choose": [[], []]}}, "passes: {'choose': [[], []]}: only settings of steps may have choices"),
        (
            {"passes": [{"quantize": {}, "optional": True}], "engines": {"a": [], "b": []}},
            "engines: names a, b; a search compares one engine of each trial, leave one",
        ),
    ],
)
def test_choices_elsewhere_and_what_cannot_be_searched_are_refused(value: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        of_value({**HEAD, **value}, Path("s.yaml"))
    assert str(refused.value).startswith(f"s.yaml: {said}")


def test_what_is_no_mapping_and_no_yaml_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("passes: [prune-ffn: {ratio: {choose: [1, 2]}\n")
    with pytest.raises(InputError, match=r"s.yaml:2:1: not valid YAML"):
        load(path)
    path.write_text("- 1\n")
    with pytest.raises(InputError, match=r"s.yaml: \[1\] is no space; write a recipe in which settings have choices"):
        load(path)


@pytest.mark.parametrize("name", names(SPACES))
def test_a_shipped_space_is_found_by_its_name_and_every_choice_is_right(name: str) -> None:
    path = located_space(name)
    found = load(path)
    assert path.read_text().startswith("# "), "its first line says what it is for"
    assert recipes.check(found).engines
