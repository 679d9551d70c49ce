"""What a request asks for: its JSON body, read strictly.

Letters: n pictures, P x C features of a text.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError, nearest, shown
from compress.core.strict_json import parse_json
from compress.serving.refusals import RefusedError
from export.runtime.engine import Engine
from export.runtime.options import Sampling
from export.runtime.sampling import check_whole
from export.runtime.serving import Request
from export.runtime.shape import Shape

SETTINGS = tuple(get_type_hints(Sampling))
KEYS = ("label", "count", "seed", "features", *SETTINGS)
MALFORMED, WRONG = 400, 422
DRAWN_SEEDS = 2**32  # those that are drawn for a request without one: every JSON reader keeps such a number exactly
BODY_BYTES = 16_384  # of a request without features: far more than its keys take
NUMBER_BYTES = 32  # of a feature, with its comma


@dataclass(frozen=True)
class Asked:
    """A request that can be drawn, with the class and the seed of its pictures."""

    request: Request
    label: int
    seed: int


def largest_body(shape: Shape) -> int:
    """Bytes of a body that is read."""
    return BODY_BYTES + (NUMBER_BYTES * shape.text.length * shape.text.width if shape.text else 0)


def read(body: bytes, engine: Engine, most_pictures: int) -> Asked:
    """What a body asks for.

    Raises:
        RefusedError: it is not JSON (400), or asks for what cannot be drawn (422).
    """
    try:
        given = parse_json(body.decode("utf-8"), "body")
    except UnicodeDecodeError as error:
        raise RefusedError(MALFORMED, f"body: not UTF-8 (byte {error.start})") from error
    except InputError as error:
        raise RefusedError(MALFORMED, str(error)) from error
    if not isinstance(given, dict):
        raise RefusedError(WRONG, f'body: {shown(given)} is not a mapping like {{"label": 3, "seed": 7}}')
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in KEYS:
            raise RefusedError(WRONG, f"unknown key {shown(key)}; {nearest(key, KEYS)}")
    try:
        return asked(given, engine, most_pictures)
    except ValueError as error:
        raise RefusedError(WRONG, str(InputError(str(error)))) from error


def asked(given: dict[str, Any], engine: Engine, most_pictures: int) -> Asked:
    """The same of a mapping with known keys.

    Raises:
        ValueError: it cannot be drawn.
    """
    shape, count = engine.shape, given.get("count", 1)
    check_whole("count", count, 1, most_pictures)
    seed = given.get("seed", secrets.randbelow(DRAWN_SEEDS))
    label = class_of(shape, given.get("label"))
    features = features_of(shape, given.get("features"), count)
    sampling: Any = {name: given[name] for name in SETTINGS if name in given}
    return Asked(Request.of(engine, [label] * count, [seed] * count, sampling, features), label, seed)


def class_of(shape: Shape, label: Any) -> int:
    """The class that a label says, by its number or its name; 0 of a model without classes.

    Raises:
        ValueError: it is none, or there is none where one is needed.
    """
    if shape.text is not None or shape.classes == 0:
        if label is not None:
            raise ValueError(f"label {shown(label)}: this model draws no classes; leave it out")
        return 0
    if label is None:
        raise ValueError(f"label: needed, a class from 0 to {shape.classes - 1}, or {shape.classes} for no class")
    if isinstance(label, str):
        return shape.class_called(label)
    check_whole("label", label, 0, shape.classes)
    return int(label)


def features_of(shape: Shape, features: Any, count: int) -> NDArray[np.float32] | None:
    """The features (n, P, C) of so many pictures of a text, from lists (P, C).

    Raises:
        ValueError: they are not of this shape, or given to a model of no texts.
    """
    if shape.text is None:
        if features is not None:
            raise ValueError("features: this model draws no texts; leave them out")
        return None
    wanted = (shape.text.length, shape.text.width)
    if features is None:
        raise ValueError(f"features: needed, {wanted[0]} lists of {wanted[1]} numbers")
    try:
        with np.errstate(over="ignore"):  # infinity, which is refused as such
            found = np.array(features, dtype=np.float32)
    except (TypeError, ValueError):
        found = np.zeros(0, dtype=np.float32)
    if found.shape != wanted:
        raise ValueError(f"features: not {wanted[0]} lists of {wanted[1]} numbers each")
    return np.repeat(found[None], count, axis=0)
