"""JSON that holds exactly what a dataclass has: bounded in size and depth, every key once, every value of its type.

A field's annotation says what it may be, and `whole` its range. Standard library only, because the runtime reads it.
"""

from __future__ import annotations

import dataclasses
import difflib
import io
import json
import os
import stat
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from .counted import counted
from .errors import SHOWN, EngineError, shown

T = TypeVar("T")
DEEPEST = 64  # lists and mappings inside each other
LARGEST = 2**63 - 1  # a whole number
# A FIFO would wait for a writer for ever; Windows has neither.
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def whole(low: int, high: int = LARGEST) -> dict[str, int]:
    """The metadata of a field that is a whole number of a closed range, or a list of such."""
    return {"low": low, "high": high}


def read_json(path: Path, limit: int) -> Any:
    """What a file of at most `limit` bytes holds.

    Raises:
        EngineError: it is no regular file, larger, or not strict JSON.
        OSError: it cannot be opened.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise EngineError(f"{path}: is larger than {limit} bytes, which is the most that is read")
    try:
        value = json.loads(data.decode(), object_pairs_hook=once, parse_constant=no_constant, parse_float=finite)
    except RecursionError:
        raise EngineError(
            f"{path}: lists and mappings lie too deep inside each other; {DEEPEST} levels are read"
        ) from None
    except ValueError as error:
        raise EngineError(f"{path}: not readable JSON ({error})") from error
    if deeper(value, DEEPEST):
        raise EngineError(f"{path}: lists and mappings lie too deep inside each other; {DEEPEST} levels are read")
    return value


def open_regular(path: Path) -> io.BufferedReader:
    """A file opened to be read, if it is one: neither a folder nor something that never ends.

    Raises:
        EngineError: it is something else.
        OSError: it cannot be opened.
    """
    if path.is_dir():
        raise EngineError(f"{path}: is a folder; a file is needed")
    file = open(os.open(path, os.O_RDONLY | NO_WAIT), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise EngineError(f"{path}: is not a regular file (a device, FIFO or socket); a file is needed")
    return file


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping, each key of which stands once."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(key)} stands twice")
        found[key] = value
    return found


def no_constant(name: str) -> None:
    """Python would read these."""
    raise ValueError(f"{name} is not a number of JSON")


def finite(text: str) -> float:
    """A number that a float can hold; Python would make infinity of a larger one."""
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError(f"{text[:SHOWN]} is too large a number")
    return value


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and mappings lie deeper inside each other than so many levels."""
    if not isinstance(value, (dict, list)):
        return False
    return not levels or any(
        deeper(each, levels - 1) for each in (value.values() if isinstance(value, dict) else value)
    )


def parse(cls: type[T], value: Any, place: str) -> T:
    """Make a dataclass of a mapping; `place` names it in messages, ``manifest.json: shape``.

    Raises:
        EngineError: an unknown key, a missing one, another type, a number out of range.
    """
    where = place.removesuffix(":")
    if not isinstance(value, dict):
        raise EngineError(f"{where}: {shown(value)} is not a mapping")
    hints = typing.get_type_hints(cls)
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise EngineError(f"{where}: unknown key {shown(key)}; {nearest(key, fields)}")
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = convert(hints[name], value[name], inside(place, name), field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise EngineError(f"{where}: '{name}' is missing")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise EngineError(f"{where}: {error}") from error


def inside(place: str, name: str) -> str:
    """The place of a key; a place that is a file ends in a colon."""
    return f"{place} {name}" if place.endswith(":") else f"{place}.{name}"


def convert(kind: Any, value: Any, place: str, limits: typing.Mapping[str, int]) -> Any:
    """A value as its annotation wants it; lists become tuples, and nothing else is changed."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return convert(next(each for each in options if each is not type(None)), value, place, limits)
    if origin is Literal:
        if value not in options or type(value) is not str:
            raise EngineError(f"{place}: {shown(value)} is not one of {', '.join(map(repr, options))}")
        return value
    if origin is tuple:
        return convert_list(options, value, place, limits)
    if origin is dict:
        if not isinstance(value, dict):
            raise EngineError(f"{place}: {shown(value)} is not a mapping")
        return {key: convert(options[1], each, f"{place}[{shown(key)}]", limits) for key, each in value.items()}
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast("type[Any]", kind), value, place)
    return convert_plain(kind, value, place, limits)


def convert_list(options: tuple[Any, ...], value: Any, place: str, limits: typing.Mapping[str, int]) -> tuple[Any, ...]:
    """A list of one kind, or of a fixed length."""
    if not isinstance(value, list):
        raise EngineError(f"{place}: {shown(value)} is not a list")
    kinds = (options[0],) * len(value) if options[-1] is Ellipsis else options
    if len(kinds) != len(value):
        raise EngineError(f"{place}: {shown(value)} has {counted(len(value), 'item')}; {len(kinds)} are needed")
    return tuple(
        convert(each, item, f"{place}[{index}]", limits)
        for index, (each, item) in enumerate(zip(kinds, value, strict=True))
    )


def convert_plain(kind: type, value: Any, place: str, limits: typing.Mapping[str, int]) -> Any:
    """Text, a truth, or a number; a whole number may stand for one with a fraction."""
    kinds = {int: "a whole number", str: "text", bool: "true or false", float: "a number"}
    taken = (int, float) if kind is float else (kind,)
    if type(value) not in taken:
        raise EngineError(f"{place}: {shown(value)} is not {kinds[kind]}")
    low, high = limits.get("low", -LARGEST), limits.get("high", LARGEST)
    if type(value) is int and not low <= value <= high:
        wanted = f"at least {low}" if high == LARGEST else f"between {low} and {high}"
        raise EngineError(f"{place}: {shown(value)} is out of range; it must be {wanted}")
    return value


def nearest(word: str, words: Iterable[str]) -> str:
    """A did-you-mean clause for a word that is none of the known words."""
    known = sorted(words)
    close = difflib.get_close_matches(word[:SHOWN], known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
