"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from compress.core.settings import InputError, shown

UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1, "": 1}
SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?) *([KMG]?I?B|)")


def parse_size(text: str, where: str) -> int:
    """Bytes of a size like 500MB or 2GiB; `where` names its place in the message.

    Raises:
        InputError: it is no such size.
    """
    found = SIZE.fullmatch(text.strip().upper())
    if found is not None and found[2] in UNITS:
        return int(float(found[1]) * UNITS[found[2]])
    raise InputError(f"{where}: {shown(text)} is not a size like 500MB or 2GiB")
