"""Counted things in words, singular and plural."""

from __future__ import annotations

SIBILANTS = ("s", "x", "z", "ch", "sh")  # after which a plural takes another letter


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: 1 picture, 2 pictures, 0 breaches, 1024 classes; `plural` where it is no rule's."""
    return f"{number} {of_number(number, noun, plural)}"


def of_number(number: int, noun: str, plural: str = "") -> str:
    """A noun as it stands behind a number."""
    if number == 1:
        return noun
    if plural:
        return plural
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(SIBILANTS) else f"{noun}s"
