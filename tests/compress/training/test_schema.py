"""The JSON schema of training recipes."""

from __future__ import annotations

import pytest
import yaml
from jsonschema import Draft202012Validator

from compress.recipe import shipped
from compress.training.schema import schema

RULES = Draft202012Validator(schema())


@pytest.mark.parametrize("each", [each.name for each in shipped.listed() if each.verb == "train"])
def test_every_shipped_recipe_is_valid(each):
    value = yaml.safe_load((shipped.ROOT / f"{each}.yaml").read_text())
    RULES.validate(value)
    assert not RULES.is_valid({**value, "seeds": 1})
    assert not RULES.is_valid({**value, "train": {**value["train"], "steps": 0}})


def test_it_is_one_of_its_dialect():
    Draft202012Validator.check_schema(schema())
