"""The JSON schema of a recipe, so that an editor completes its keys and checks it while it is written.

It says what can be said of a file alone: keys, types, ranges, words. What depends on the model, or on another key, is
left to `compress plan`.
"""

from __future__ import annotations

from typing import Any

from compress.core.json_schema import DIALECT, Schemas
from compress.passes import find, names
from compress.recipe.gates import gate_class
from compress.recipe.recipe import ENGINE_NAME, Layout


def schema() -> dict[str, Any]:
    """The schema, with a definition for each pass."""
    schemas = Schemas(given=True)
    gate = schemas.define(gate_class(), "gate")
    steps = [step(name, schemas, gate) for name in names()]
    schemas.definitions["step"] = {"description": "one pass, optionally with the gate that judges it", "anyOf": steps}
    chain = {"type": "array", "items": {"$ref": "#/$defs/step"}}
    top = schemas.described(Layout)
    properties = top["properties"]
    properties["passes"] |= chain
    properties["gate"] |= gate
    properties["engines"] = {
        "description": properties["engines"]["description"],
        "type": "object",
        "patternProperties": {f"^{ENGINE_NAME.pattern}$": {**chain, "minItems": 1}},
        "additionalProperties": False,
        "minProperties": 1,
    }
    top["required"] = ["model", "engines"]
    return {"$schema": DIALECT, "title": "recipe of compress", **top, "$defs": schemas.definitions}


def step(name: str, schemas: Schemas, gate: dict[str, Any]) -> dict[str, Any]:
    """A step of this pass: its settings behind its name, or its name alone."""
    cls = find(name, "schema")
    settings = schemas.define(cls, name)
    bare = not schemas.definitions[name]["required"]
    whole = {
        "type": "object",
        "properties": {name: {"anyOf": [settings, {"type": "null"}]} if bare else settings, "gate": gate},
        "required": [name],
        "additionalProperties": False,
    }
    return {"anyOf": [whole, {"const": name}]} if bare else whole
