"""JSON Schema (2020-12) of dataclasses whose fields are settings, made from the classes so that it cannot drift.

A schema is of what is written, where every key is there, or of what is given: then a key with a default may be left
out, a share may be text such as ``2%``, and numbers keep the ranges of their settings, as `settings.parse` has it.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from compress.core.settings import plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean"}
PERCENTAGE = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*%\s*$"


@dataclass
class Schemas:
    """Schemas of classes, collected under `definitions`; `given`: of what a user writes, not of what a program does."""

    given: bool = False
    definitions: dict[str, Any] = field(default_factory=dict)

    def define(self, cls: type[Any], name: str = "") -> dict[str, Any]:
        """A reference to the definition of a dataclass, which is made at the first call."""
        name = name or cls.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # a class may be part of itself
            made = self.described(cls)
            del self.definitions[name]  # behind those it is made of
            self.definitions[name] = made
        return {"$ref": f"#/$defs/{name}"}

    def described(self, cls: type[Any]) -> dict[str, Any]:
        """The schema of a dataclass; every key carries its documentation."""
        hints = get_type_hints(cls)
        fields = [each for each in dataclasses.fields(cls) if each.init or not self.given]
        return {
            "type": "object",
            "description": (cls.__doc__ or "").strip().splitlines()[0],
            "properties": {each.name: self.of_field(each, hints[each.name]) for each in fields},
            "required": [each.name for each in fields if not self.given or needed(each)],
            "additionalProperties": False,
        }

    def of_field(self, each: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
        """The schema of one field."""
        made = {"description": each.metadata["doc"]} if "doc" in each.metadata else {}
        if not self.given:
            return made | self.kind(hint)
        if each.default not in (dataclasses.MISSING, None):
            made["default"] = plain(each.default)
        listed = each.metadata.get("known")
        return made | ({"enum": list(listed())} if listed else self.kind(hint, each.metadata))

    def kind(self, hint: Any, limits: Any = types.MappingProxyType({})) -> dict[str, Any]:
        """The schema of an annotation; `limits` are those of the setting."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return {}
        if origin in (Union, types.UnionType):
            options = [option for option in arguments if option is not type(None)]
            return {"anyOf": [*(self.kind(option, limits) for option in options), {"type": "null"}]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            count = None if arguments[-1] is Ellipsis else len(arguments)
            made = {"type": "array", "items": self.kind(arguments[0], limits)}
            if count is not None:
                return made | {"minItems": count, "maxItems": count}
            return made | ({"minItems": limits["fewest"]} if limits.get("fewest") else {})
        if origin is dict or hint is dict:
            values = (arguments or (str, Any))[1]
            return {"type": "object", "additionalProperties": self.kind(values)}
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            return self.define(hint)
        return self.scalar(hint, limits)

    def scalar(self, hint: type[Any], limits: Any) -> dict[str, Any]:
        """The schema of a number, a text or a truth value."""
        ends = (("minimum", limits.get("low")), ("maximum", limits.get("high")))
        made = {"type": SCALARS[hint], **{name: end for name, end in ends if end is not None}}
        if hint is float and self.given:
            return {"anyOf": [made, {"type": "string", "pattern": PERCENTAGE}]}
        return made


def needed(each: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
