"""What the numbers that applications are given may be, on the command line and from Python; imports nothing heavy."""

from __future__ import annotations

from compress.core.settings import InputError

MOST_COUNT = 2**20  # pictures of each class
MOST_FACTOR = 64
MOST_OVERLAP = 0.95
WIDEST_BLEND = 2**16  # pixels


def check_share(name: str, value: float | None, high: float = 1.0) -> None:
    """Refuse what is no number from 0 to `high`; None stands for the usual one.

    Raises:
        InputError: says which value.
    """
    from export.runtime.sampling import check_number

    try:
        if value is not None:
            check_number(name, value, 0, high)
    except ValueError as error:
        raise InputError(str(error)) from error


def check_count(name: str, value: int | None, low: int, high: int) -> None:
    """Refuse what is no whole number from `low` to `high`; None stands for the usual one.

    Raises:
        InputError: says which value.
    """
    from export.runtime.sampling import check_whole

    try:
        if value is not None:
            check_whole(name, value, low, high)
    except ValueError as error:
        raise InputError(str(error)) from error
