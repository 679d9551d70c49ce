"""The JSON schema of recipes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from compress.passes import names
from compress.recipe import shipped
from compress.recipe.schema import schema

RULES = Draft202012Validator(schema())
PLAIN: dict[str, Any] = {
    "model": {"checkpoint": "digits"},
    "passes": [{"prune-heads": {"ratio": 0.25}, "gate": {"nll_drift": "2%"}}],
    "engines": {"cpu": [{"export": {"target": "onnxruntime"}}, "fuse", {"engine": None}]},
}


def test_the_schema_is_one_of_its_dialect_and_knows_every_pass():
    Draft202012Validator.check_schema(schema())
    assert set(names()) <= schema()["$defs"].keys()
    assert RULES.is_valid(PLAIN)


@pytest.mark.parametrize("each", [each.name for each in shipped.listed() if each.verb == "run"])
def test_every_shipped_recipe_is_valid(each):
    RULES.validate(yaml.safe_load((shipped.ROOT / f"{each}.yaml").read_text()))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("modle", {}),
        ("engines", {}),
        ("engines", {"cpu": []}),
        ("engines", {"c p u": ["fuse"]}),
        ("passes", [{"prune-haeds": {"ratio": 0.25}}]),
        ("passes", [{"prune-heads": {"ratio": 1.5}}]),
        ("passes", [{"prune-heads": {"ratios": 0.5}}]),
        ("passes", [{"distill": None}]),
        ("passes", ["distill"]),
        ("passes", [{"prune-heads": {"ratio": 0.5}, "prune-ffn": {"ratio": 0.5}}]),
        ("passes", [{"quantize": {"weights": "fp4"}}]),
        ("gate", {"nll_drift": "two"}),
        ("gate", {"nll": 1}),
        ("seed", -1),
    ],
    ids=str,
)
def test_what_a_file_alone_shows_to_be_wrong_is_refused(place, value):
    assert not RULES.is_valid({**copy.deepcopy(PLAIN), place: value})


def test_a_recipe_needs_a_model_and_an_engine():
    assert not RULES.is_valid({"model": PLAIN["model"]})
    assert not RULES.is_valid({"engines": PLAIN["engines"]})
