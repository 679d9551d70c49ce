"""How number formats of linear layers are written: the words of a name, without what computes in the format."""

from __future__ import annotations

import re

from export.graph.number_formats import FORMATS

FLOAT = "float"
NAME = re.compile(r"(?P<weights>[a-z0-9]+)(-(?P<rounded>static|dynamic))?(-g(?P<group>[0-9]{1,6}))?(?P<zeros>-zeros)?")


def words_of(name: str) -> re.Match[str]:
    """The words of a name other than ``float``: ``weights``, ``rounded``, ``group`` and ``zeros``.

    Raises:
        ValueError: it is no format's; says how one is written.
    """
    found = NAME.fullmatch(name)
    if found is None or found["weights"] not in FORMATS:
        raise ValueError(
            f"is no format; write float, or {', '.join(FORMATS)} with -static or -dynamic (inputs of products), -g128 "
            "(a group) and -zeros (zero points) behind it where they are wanted"
        )
    return found
