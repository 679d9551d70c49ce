"""Turn a mapping into a frozen dataclass, strictly, and give every value a canonical hash.

Settings classes are frozen dataclasses whose fields are made with `setting`, which carries the one-line
documentation and the allowed range. `parse` accepts exactly the fields that exist, of exactly their types; every
complaint says where, what the value was, and what would be right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


SHOWN = 200  # most characters of a value, or of a word such as a path, in a message
MESSAGE = 2000  # most characters of a message
DEPTH = 10  # lists in lists that are shown
DIGITS = 50  # whole numbers of more are described: writing one out takes time that grows with its square


class InputError(Exception):
    """What the user gave is wrong: one line that says where, what, and what would be right. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """A message with its control characters escaped, and whatever is far too long cut in the middle."""
    whole = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in cut(text, 10 * MESSAGE)
    )
    return cut(re.sub(rf"\S{{{SHOWN + 1},}}", lambda word: cut(word[0], SHOWN), whole), MESSAGE)


def cut(text: str, most: int) -> str:
    """A text of at most so many characters: its beginning and its end."""
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[len(text) - end :]}"


def shown(value: object) -> str:
    """A value for a message: its `repr` in one line of at most `SHOWN` characters.

    No more of the value is read than is shown, so lists that hold themselves or a billion items take no time.
    """
    text = ""
    for piece in _pieces(value, DEPTH):
        text += piece
        if len(text) > SHOWN:
            return f"{text[: SHOWN - 3]}..."
    return text


def _pieces(value: object, depth: int) -> Iterator[str]:
    """The `repr` of a value, piece by piece."""
    if isinstance(value, (str, bytes)):
        yield repr(value[:SHOWN])
        if len(value) > SHOWN:
            yield "..."
    elif isinstance(value, int) and value.bit_length() > DIGITS * 10 // 3:
        yield f"a whole number of about {value.bit_length() * 3 // 10} digits"
    elif isinstance(value, (list, tuple, set, frozenset, Mapping)):
        left, right = {list: ("[", "]"), tuple: ("(", ")")}.get(type(value), ("{", "}"))
        yield left
        for index, item in enumerate(value if depth else ()):
            yield ", " if index else ""
            yield from _pieces(item, depth - 1)
            if isinstance(value, Mapping):
                yield ": "
                yield from _pieces(value[item], depth - 1)
        yield right if depth or not value else f"...{right}"
    else:
        yield one_line(repr(value))


def setting(
    default: Any = dataclasses.MISSING, *, doc: str, low: float | None = None, high: float | None = None
) -> Any:
    """A field of a settings class: its default, one line of documentation, and the closed range of a number."""
    return dataclasses.field(default=default, metadata={"doc": doc, "low": low, "high": high})


def nearest(word: str, words: Iterable[str]) -> str:
    """A did-you-mean clause for a word that is none of the known words."""
    known = sorted(words)
    if not known:
        return "there is none to choose from"
    close = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def inside(where: str, name: str) -> str:
    """The place of a key in another place; a place that ends in a colon is a file or a step."""
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def parse(cls: type[T], value: object, where: str) -> T:
    """Make `cls` from a mapping; `where` names the place in every message: ``r.yaml:`` becomes ``r.yaml: bench.batch``.

    Raises:
        InputError: an unknown key, a missing one, another type, a number out of range.
    """
    place = where.removesuffix(":")
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: {shown(value)} is not a mapping of settings")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise InputError(f"{place}: unknown key {shown(key)}; {nearest(str(key), fields)}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = convert(hints[name], value[name], inside(where, name))
            check_range(field, arguments[name], inside(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{place}: '{name}' is missing; it is needed ({field.metadata.get('doc', name)})")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error


def convert(kind: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation; percentages are numbers, lists are tuples, nothing else is coerced."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        return convert(next(option for option in get_args(kind) if option is not type(None)), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            listed = ", ".join(repr(option) for option in sorted(get_args(kind), key=str))
            raise InputError(f"{where}: {shown(value)} is not one of {listed}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: {shown(value)} is not a list")
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise InputError(f"{where}: {shown(list(value))} has {len(value)} items; {len(kinds)} are needed")
        return tuple(
            convert(each, item, f"{where}[{i}]") for i, (each, item) in enumerate(zip(kinds, value, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast("type[Any]", kind), value, where)
    if kind is float:
        return to_float(value, where)
    if kind is dict or origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: {shown(value)} is not a mapping")
        return dict(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: {shown(value)} is not {describe(kind)}")
    return value


def to_float(value: object, where: str) -> float:
    """A finite number, or a percentage written as '2%'."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            pass
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) != float("inf")
        and value == value
    ):
        return float(value)
    hint = ""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            hint = f"; write {float(value)!r}" if abs(float(value)) != float("inf") else ""  # YAML reads 1e-3 as text
    raise InputError(f"{where}: {shown(value)} is not a number{hint}")


def describe(kind: type) -> str:
    """An annotation in a person's words."""
    return {int: "a whole number", str: "text", bool: "true or false"}.get(kind, f"a {kind.__name__}")


def check_range(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    """Refuse numbers outside the field's closed range."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            if low is None or high is None:
                wanted = f"at least {low:g}" if high is None else f"at most {high:g}"
            else:
                wanted = f"between {low:g} and {high:g}"
            raise InputError(f"{where}: {shown(number)} is out of range; it must be {wanted}")


def plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses become mappings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def digest(*values: Any) -> str:
    """Hexadecimal SHA-256 of the values' canonical JSON."""
    text = json.dumps([plain(value) for value in values], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
