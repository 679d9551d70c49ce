"""Options of verbs that read users' pictures: how they get their shape, and what is behind transparency."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from compress.core.settings import InputError

if TYPE_CHECKING:
    from compress.data.reading import Fit, Reading


background_option = click.option(
    "--background", metavar="'#RRGGBB'",
    help="Colour behind what is transparent, and of padding.  [default: '#ffffff', white]",
)  # fmt: skip


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--fit` and `--background`."""
    command = background_option(command)
    return click.option(
        "--fit", type=click.Choice(["crop", "pad", "stretch"]),
        help="How pictures of another aspect than the model's get it.  [default: crop, around the centre]",
    )(command)  # fmt: skip


def reading_of(fit: Fit | None, background: str | None) -> Reading:
    """How pictures are read where these options were given.

    Raises:
        InputError: the background is no colour.
    """
    from compress.data.reading import AS_USUAL, Reading

    try:
        return Reading(fit or AS_USUAL.fit, background or AS_USUAL.background)
    except ValueError as error:
        raise InputError(f"--{error}") from error
