"""The JSON schema of report.json, made from the dataclasses so that it cannot drift from them.

`python -m compress.report.data.schema` prints it; schema.json beside this file is its output, and a test compares
the two.
"""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from compress.measure import EngineMeasurement, measures
from compress.measure.measurement import own_names
from compress.report import Report

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}


def schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12); every key carries its documentation."""
    definitions: dict[str, Any] = {}
    describe(Report, definitions)
    further = {each.name: each for each in measures() if each.name not in own_names(EngineMeasurement)}
    found = {name: kind(each, definitions) for name, each in further.items()}
    for row in ("Measurement", "EngineMeasurement"):
        definitions[row]["properties"]["measures"]["properties"] = found
    top = definitions.pop("Report")
    return {"$schema": DIALECT, "title": "report.json", **top, "$defs": definitions}


def describe(cls: type[Any], definitions: dict[str, Any]) -> None:
    """Put the schema of a dataclass, and of those it is made of, into the definitions."""
    hints = get_type_hints(cls)
    fields = dataclasses.fields(cls)
    definitions[cls.__name__] = {
        "type": "object",
        "description": (cls.__doc__ or "").strip().splitlines()[0],
        "properties": {
            item.name: {"description": item.metadata["doc"], **kind(hints[item.name], definitions)} for item in fields
        },
        "required": [item.name for item in fields],
        "additionalProperties": False,
    }


def kind(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of one annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        return {"anyOf": [*(kind(option, definitions) for option in options), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": kind(arguments[0], definitions)}
    if origin is tuple:
        count = len(arguments)
        return {"type": "array", "items": kind(arguments[0], definitions), "minItems": count, "maxItems": count}
    if origin is dict:
        values = {} if arguments[1] is Any else kind(arguments[1], definitions)
        return {"type": "object", "additionalProperties": values}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if hint.__name__ not in definitions:
            describe(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return {"type": SCALARS[hint]}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
