"""Turn a mapping into a frozen dataclass, strictly, and give every value a canonical hash.

Settings classes are frozen dataclasses whose fields are made with `setting`, which carries the one-line
documentation and the allowed range. `parse` accepts exactly the fields that exist, of exactly their types; every
complaint says where, what the value was, and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from export.runtime.counted import counted

T = TypeVar("T")


SHOWN = 200  # most characters of a value, or of a word such as a path, in a message
MESSAGE = 2000  # most characters of a message
DEPTH = 10  # lists in lists that are shown
DIGITS = 50  # whole numbers of more are described: writing one out takes time that grows with its square


class InputError(Exception):
    """What the user gave is wrong: one line that says where, what, and what would be right. Exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class ContradictionError(InputError):
    """Settings that contradict each other; `text` says how, without the place."""

    def __init__(self, place: str, text: str) -> None:
        super().__init__(f"{place}: {text}")
        self.text = text


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
        yield "" if depth or not value else "..."
        yield f",{right}" if isinstance(value, tuple) and len(value) == 1 else right
    else:
        yield one_line(repr(value))


# The most that settings may be: far above what a machine does, and well inside of what 64-bit integers and 32-bit
# floats count, so that arithmetic with them stays exact and finite.
MOST_BATCH = 65_536  # rows that are computed at once
MOST_STEPS = 10**9
MOST_PICTURES = 10**9
MOST_THREADS = 1024  # the processors of the largest machines
MOST_WEIGHT = 10**6  # of a term of a loss
MOST_LEARNING_RATE = 1  # Adam moves every weight by about so much in a step
MOST_LAYERS = 10_000
MOST_WIDTH = 65_536
MOST_WORDS = 2**20  # tokens or classes
MOST_SIDE = 4096  # rows or columns, of tokens or pixels
MOST_REPEATS = 10_000  # rounds of a measurement
MOST_MIB = 10**7
MOST_SEED = 2**31 - 1


def setting(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    fewest: int = 0,
    known: Callable[[], Iterable[str]] | None = None,
) -> Any:
    """A field of a settings class: its default, one line of documentation, and what it may be.

    `low` and `high` are the closed range of a number, or of each number in a list; `fewest` is the least length of a
    list; `known` lists the words that a text may be, where others than this project add some. A `default` of the class
    ``dict`` is an empty mapping.
    """
    limits = {"low": low, "high": high, "fewest": fewest, "known": known}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata={"doc": doc, **limits})
    return dataclasses.field(default=default, metadata={"doc": doc, **limits})


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
        ContradictionError: each setting may be so, but not all of them together.
    """
    place = where.removesuffix(":")
    if value is None:
        value = {}
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: {shown(value)} is not a mapping of settings")
    hints = type_hints(typing.cast("Any", cls))
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise InputError(f"{place}: unknown key {shown(key)}; {nearest(str(key), fields)}")
    arguments: dict[str, Any] = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = convert(hints[name], value[name], inside(where, name))
            check_range(field, arguments[name], inside(where, name))
            check_known(field, arguments[name], inside(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{place}: '{name}' is missing; it is needed ({field.metadata.get('doc', name)})")
    try:
        return cls(**arguments)
    except ContradictionError as error:
        raise ContradictionError(place, error.text) from error
    except ValueError as error:
        raise ContradictionError(place, str(error)) from error


def check_fields(settings: Any, where: str) -> None:
    """Hold the fields of a settings dataclass to their types and ranges, as `parse` does; lists become tuples.

    A class calls it in its `__post_init__`, so that it refuses in Python what it refuses in a recipe.

    Raises:
        InputError: the first that is of another type, or out of range.
    """
    hints = type_hints(typing.cast("Any", type(settings)))
    for field in dataclasses.fields(settings):
        value = convert(hints[field.name], getattr(settings, field.name), inside(where, field.name))
        check_range(field, value, inside(where, field.name))
        check_known(field, value, inside(where, field.name))
        object.__setattr__(settings, field.name, value)


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The annotations of a class, evaluated."""
    return typing.get_type_hints(cls)


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
        if not any(value == option and type(value) is type(option) for option in get_args(kind)):
            options = sorted(get_args(kind), key=str)
            listed = ", ".join(str(option).lower() if isinstance(option, bool) else repr(option) for option in options)
            raise InputError(f"{where}: {shown(value)} is not one of {listed}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: {shown(value)} is not a list")
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise InputError(
                f"{where}: {shown(list(value))} has {counted(len(value), 'item')}; {len(kinds)} are needed"
            )
        return tuple(
            convert(each, item, f"{where}[{i}]") for i, (each, item) in enumerate(zip(kinds, value, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        if isinstance(value, typing.cast("type[Any]", kind)):
            return value
        return parse(typing.cast("type[Any]", kind), value, where)
    if kind is float:
        return to_float(value, where)
    if kind is dict or origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: {shown(value)} is not a mapping")
        _, item_kind = get_args(kind) or (str, Any)
        return {key: convert(item_kind, item, inside(where, str(key))) for key, item in value.items()}
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{where}: {shown(value)} is not {describe(kind)}")
    return value


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # as Python writes one, in ASCII


def to_float(value: object, where: str) -> float:
    """A finite number, or a percentage written as '2%'."""
    if isinstance(value, str) and value.strip().endswith("%"):
        share = from_text(value.strip().removesuffix("%"))
        if share is not None:
            return share / 100
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    hint = ""
    if isinstance(value, str) and (number := from_text(value.strip())) is not None:
        hint = f"; write {number!r}"  # YAML reads 1e-3 as text
    raise InputError(f"{where}: {shown(value)} is not a number{hint}")


def from_text(text: str) -> float | None:
    """The finite number that a text is, if it is one."""
    if len(text) > DIGITS or NUMBER.fullmatch(text) is None or not math.isfinite(number := float(text)):
        return None
    return number


def describe(kind: type) -> str:
    """An annotation in a person's words."""
    return {int: "a whole number", str: "text", bool: "true or false"}.get(kind, f"a {kind.__name__}")


def check_range(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    """Refuse numbers outside the field's closed range, and lists that are too short."""
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if isinstance(value, tuple) and len(value) < (fewest := field.metadata.get("fewest", 0)):
        raise InputError(f"{where}: has {counted(len(value), 'item')}; at least {fewest} are needed")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            if low is not None and high is not None:
                wanted = f"between {bound(low)} and {bound(high)}"
            else:
                wanted = f"at most {bound(high)}" if low is None else f"at least {bound(low)}"
            raise InputError(f"{where}: {shown(number)} is out of range; it must be {wanted}")


def check_known(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    """Refuse a word that is none of the field's; the nearest is suggested."""
    listed = field.metadata.get("known")
    if listed is None or value in (words := list(listed())):
        return
    close = difflib.get_close_matches(value[:SHOWN], words, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise InputError(f"{where}: {shown(value)} is not one of {', '.join(map(repr, words))}{hint}")


def bound(number: float | None) -> str:
    """The end of a range, as messages and documents write it."""
    assert number is not None
    return f"{number:g}" if abs(number) < 10**6 else f"{number:,.0f}"


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
