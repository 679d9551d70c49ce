"""What exists: passes with their settings, shipped models, families; read from the code itself, so it cannot drift."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

from compress.core.settings import bound, plain
from compress.models import families, zoo
from compress.models.tokenizer import formats
from compress.passes import find, names


def summary(document: str | None) -> str:
    """The sentence that says what a thing is."""
    return (document or "").strip().splitlines()[0].rstrip(".") if document else ""


def passes(name: str | None = None) -> list[dict[str, Any]]:
    """Every pass, or the one of this name: forms, exactness, and settings with types, defaults and documentation."""
    return [describe_pass(each) for each in ([name] if name else names())]


def describe_pass(name: str) -> dict[str, Any]:
    """One pass as its class says it."""
    found = find(name, "passes")
    hints = typing.get_type_hints(found)
    return {
        "name": name,
        "doc": summary(found.__doc__),
        "accepts": found.accepts.value,
        "returns": found.returns.value,
        "exact": found.exact,
        "settings": [
            {
                "name": field.name,
                "type": words_of(field) or type_words(hints[field.name]),
                "default": default_words(field),
                "doc": field.metadata.get("doc", "") + range_words(field),
            }
            for field in dataclasses.fields(found)
        ],
    }


def words_of(field: dataclasses.Field[Any]) -> str:
    """The words that a text may be, where they are known by name; empty for every other setting."""
    listed = field.metadata.get("known")
    return " | ".join(listed()) if listed else ""


def type_words(kind: Any) -> str:
    """A type as a user writes it."""
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(
            str(option).lower() if option in (True, False) else option for option in typing.get_args(kind)
        )
    if typing.get_origin(kind) is tuple:
        return f"list of {type_words(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict:
        named = dataclasses.fields(typing.get_args(kind)[1])
        return f"mapping of names to {', '.join(each.name for each in named)}"
    return getattr(kind, "__name__", str(kind)) if not typing.get_args(kind) else str(kind).replace("typing.", "")


def default_words(field: dataclasses.Field[Any]) -> str:
    """A default as a user writes it, or that there is none."""
    if field.default is dataclasses.MISSING:
        return "needed" if field.default_factory is dataclasses.MISSING else str(field.default_factory())
    if dataclasses.is_dataclass(field.default):
        return json.dumps({name: value for name, value in plain(field.default).items() if value is not None})
    return json.dumps(field.default) if not isinstance(field.default, tuple) else str(list(field.default))


def range_words(field: dataclasses.Field[Any]) -> str:
    """The allowed range of a number."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f" [at least {bound(low)}]" if high is None else f" [at most {bound(high)}]"
    return f" [{bound(low)} to {bound(high)}]"


def models() -> dict[str, list[dict[str, Any]]]:
    """The shipped models with their sizes and held-out NLL, and the families of checkpoints."""
    shipped = []
    for name in zoo.names():
        folder = zoo.ROOT / name
        config = json.loads((folder / "config.json").read_text())["transformer"]
        training = json.loads((folder / "training.json").read_text())
        shipped.append(
            {
                "name": name,
                "parameters": training["parameters"],
                "size_bytes": sum(path.stat().st_size for path in folder.iterdir()),
                "held_out_nll": training["held_out_nll"],
                "doc": "{}x{} tokens".format(*config["grid"])
                + f" of {config['vocabulary']}, {config['classes']} classes",
            }
        )
    read = [{"name": name, "doc": summary(families.document(name))} for name in families.names()]
    tokenizers = [{"name": name, "doc": summary(formats.module_of(name).__doc__)} for name in formats.names()]
    return {"models": shipped, "families": read, "tokenizers": tokenizers}
