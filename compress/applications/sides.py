"""The sides to which a picture is continued, and how far."""

from __future__ import annotations

from compress.core.settings import InputError, nearest, shown

SIDES = ("left", "right", "top", "bottom")
MOST = 16.0  # of a side of the picture, to one side


def parsed_sides(text: str) -> dict[str, float]:
    """Shares of sides as the command line has them: ``right=0.5,top=0.25``, or ``all=0.5``.

    Raises:
        InputError: the text is not that, or names what is no side.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (each.strip() for each in part.partition("="))
        try:
            number = float(share)
        except ValueError:
            raise InputError(f"--extend {shown(text)}: is not like right=0.5 or left=0.5,top=0.25") from None
        for side in SIDES if name == "all" else (name,):
            if side in found:
                raise InputError(f"--extend {shown(text)}: says {side} twice")
            check_side(side, number)
            found[side] = number
    return found


def check_side(side: str, share: float) -> None:
    """Refuse what is no side, or no share of one.

    Raises:
        InputError: says what would be right.
    """
    if side not in SIDES:
        raise InputError(f"--extend: {shown(side)} is no side; {nearest(side, (*SIDES, 'all'))}")
    if not 0 < share <= MOST:  # also NaN
        raise InputError(f"--extend {side}={share:g}: is out of range; it must be more than 0 and at most {MOST:g}")
