"""Budgets and objectives as a user writes them, held against each other; nothing heavy is imported for that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from compress.core.settings import InputError, shown

LATENCY, SIZE = "latency", "size"
ALIASES = {"latency_ms": LATENCY}  # other names of an objective
RELATED = {LATENCY: ("latency_ms", "speedup")}  # the same time, as limits say it
UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BYTES = re.compile(rf"([0-9]+(?:\.[0-9]+)?) ?({'|'.join(UNITS)})")
NOT_LIMITS = ("decide", "unmeasured", "speedup_batch")  # keys of a gate that say how to judge


def pairs(budgets: Sequence[str]) -> dict[str, str]:
    """The limits of options like nll_drift=1%, by their quantity.

    Raises:
        InputError: one is no limit, or two are on one quantity.
    """
    found: dict[str, str] = {}
    for each in budgets:
        name, sign, limit = (part.strip() for part in each.partition("="))
        if not (name and sign and limit):
            raise InputError(f"--budget {shown(each)}: is no limit; write QUANTITY=LIMIT, for example nll_drift=1%")
        if name in found:
            raise InputError(f"--budget {name}: has two limits, {found[name]} and {limit}; give one")
        found[name] = limit
    return found


def objectives(minimise: Sequence[str]) -> tuple[str, ...]:
    """The names of what is made small, each once.

    Raises:
        InputError: one stands twice.
    """
    names = tuple(ALIASES.get(each, each) for each in minimise)
    for index, each in enumerate(names):
        if each in names[:index]:
            raise InputError(f"--minimize {each}: stands twice; give it once")
    return names


def check(budgets: Mapping[str, str], names: Sequence[str], gate: Mapping[str, Any]) -> None:
    """Refuse budgets that contradict each other or what is made small, by their names alone.

    `gate` is that of the space, whose limits are budgets too.

    Raises:
        InputError: a quantity has two limits, or is both limited and made small, or nothing holds the search back, or
            another one than the size is limited in bytes.
    """
    bytes_of(budgets)
    for name, limit in budgets.items():
        if name in gate:
            raise InputError(f"--budget {name}: has two limits, {limit} and {gate[name]} in the space's gate; give one")
    for each in names:
        for name in (each, *RELATED.get(each, ())):
            if name in budgets or name in gate:
                where = f"--budget {name}" if name in budgets else f"the space's gate.{name}"
                raise InputError(
                    f"{where}: {each} is made as small as it can be, which a limit on {name} contradicts; leave one out"
                )
    if len(names) == 1 and not budgets and not {*gate} - {*NOT_LIMITS}:
        raise InputError(
            f"--minimize {names[0]}: nothing holds it back; give a limit such as --budget nll_drift=1%, or a second "
            "--minimize"
        )


def bytes_of(budgets: Mapping[str, str]) -> float | None:
    """The limit of the size, where it is given in bytes.

    Raises:
        InputError: another quantity is limited in bytes.
    """
    found = None
    for name, text in budgets.items():
        if (written := BYTES.fullmatch(text)) is not None:
            if name != SIZE:
                raise InputError(f"--budget {name}={text}: only {SIZE} is limited in bytes")
            found = float(written[1]) * UNITS[written[2]]
    return found


def limits_of(budgets: Mapping[str, str], gate: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """All limits as a gate's mapping, and what messages call their place.

    A size in bytes is a share of 1 in it, in place of the true one, which is not known yet.
    """
    limits = {**gate, **{name: limit_of(text) for name, text in budgets.items()}}
    if bytes_of(budgets) is not None:
        limits[SIZE] = 1.0
    return limits, "--budget" if budgets else "the space's gate"


def limit_of(text: str) -> float | str:
    """A limit as a gate's mapping holds it; what is no number the gate refuses, in its own words."""
    try:
        return float(text)
    except ValueError:
        return text
