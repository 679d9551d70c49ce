"""JSON, read strictly and with bounds: no doubled keys, NaN or Infinity, no number or nesting beyond all use."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from compress.core.settings import InputError, shown
from compress.core.user_files import read_text

LIMIT_BYTES = 64 << 20  # a report of 1,000 steps takes about 10 MB
NESTING = 100  # lists and mappings inside each other
DEEP = f"nested deeper than {NESTING} lists and mappings"
DIGITS = 50  # of one number


def read_json(path: Path, limit_bytes: int = LIMIT_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, limit_bytes), str(path))


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text; `where` begins every message.

    Raises:
        InputError: it is not JSON (line and column are named), a key stands twice, a number is NaN, infinite or has
            more than `DIGITS` digits, or values are nested deeper than `NESTING`.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=_mapping, parse_constant=_constant, parse_int=_int, parse_float=_float
        )
        check_nesting(value)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from error
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from error
    except RecursionError:
        raise InputError(f"{where}: not valid JSON: {DEEP}") from None
    return value


def check_nesting(value: object) -> None:
    """Refuse a value whose lists and mappings are nested deeper than `NESTING`.

    Raises:
        ValueError: it is.
    """
    level: list[object] = [value]
    for _ in range(NESTING + 1):
        if not level:
            return
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    raise ValueError(DEEP)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} stands twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {DIGITS} are read")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > DIGITS or not math.isfinite(number := float(digits)):
        raise ValueError(f"{shown(digits)} is not a number that a float holds")
    return number
