"""JSON schemas of settings classes: they accept and refuse what `parse` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from compress.core.json_schema import DIALECT, Schemas
from compress.core.settings import InputError, parse, setting


@dataclass(frozen=True)
class Inner:
    """A mapping inside."""

    size: tuple[int, int] = setting(doc="rows and columns", low=1, high=9)


@dataclass(frozen=True)
class Outer:
    """What a user gives.

    Only the first line is shown.
    """

    steps: int = setting(doc="how many", low=1, high=10)
    inner: Inner = setting(Inner((1, 2)), doc="sizes")
    ratio: float = setting(0.5, doc="a share", low=0, high=1)
    kind: Literal["a", "b"] = setting("a", doc="which")
    word: str = setting("x", doc="one of some", known=lambda: ("x", "y"))
    on: bool | None = setting(None, doc="or nothing")
    layers: tuple[int, ...] = setting((1,), doc="some", low=0, high=5, fewest=1)
    named: dict[str, Inner] = field(default_factory=dict, metadata={"doc": "by name"})
    rest: dict[str, Any] = field(default_factory=dict, metadata={"doc": "anything"})


def schema(given: bool) -> dict[str, Any]:
    schemas = Schemas(given)
    top = schemas.described(Outer)
    return {"$schema": DIALECT, **top, "$defs": schemas.definitions}


VALUES: list[dict[str, Any]] = [
    {"steps": 3},
    {"steps": 3, "inner": {"size": [1, 9]}, "ratio": "50%", "kind": "b", "word": "y", "on": True, "layers": [0, 5]},
    {"steps": 1, "on": None, "named": {"x": {"size": [3, 3]}}, "rest": {"x": [1]}},
    {},
    {"steps": 0},
    {"steps": 11},
    {"steps": 1.5},
    {"steps": "3"},
    {"steps": 1, "stepz": 1},
    {"steps": 1, "inner": {}},
    {"steps": 1, "inner": {"size": [1]}},
    {"steps": 1, "inner": {"size": [1, 2, 3]}},
    {"steps": 1, "inner": {"size": [0, 1]}},
    {"steps": 1, "ratio": 1.5},
    {"steps": 1, "ratio": "half"},
    {"steps": 1, "ratio": True},
    {"steps": 1, "kind": "c"},
    {"steps": 1, "word": "z"},
    {"steps": 1, "on": 1},
    {"steps": 1, "layers": []},
    {"steps": 1, "layers": [6]},
    {"steps": 1, "layers": 3},
    {"steps": 1, "named": {"x": {"sizes": [3, 3]}}},
    {"steps": 1, "named": []},
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_is_given_is_valid_where_it_can_be_parsed(value):
    try:
        parse(Outer, value, "x.yaml:")
        accepted = True
    except InputError:
        accepted = False
    assert Draft202012Validator(schema(given=True)).is_valid(value) == accepted


def test_the_schema_is_one_of_its_dialect_and_documents_every_key():
    made = schema(given=True)
    Draft202012Validator.check_schema(made)
    assert made["description"] == "What a user gives."
    assert made["properties"]["ratio"]["description"] == "a share"
    assert made["properties"]["ratio"]["default"] == 0.5
    assert made["properties"]["inner"]["default"] == {"size": [1, 2]}
    assert made["required"] == ["steps"]


def test_in_what_is_written_every_key_is_there_and_a_share_is_a_number():
    made = schema(given=False)
    assert made["required"] == list(made["properties"])
    assert made["properties"]["ratio"] == {"description": "a share", "type": "number"}
