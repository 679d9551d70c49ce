"""The command `upscale`: more pixels for a small picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compress.applications.limits import MOST_FACTOR
from compress.cli.applying import Asked, Given, application, apply
from compress.cli.group import example
from compress.cli.paths import Share
from compress.cli.reading import background_option
from compress.cli.verbs.outpaint import blend_option, overlap_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@click.command()
@example("compress upscale emoji-masked small.png --label panda -o large.png")
@click.option(
    "--factor",
    type=click.IntRange(2, MOST_FACTOR),
    default=2,
    show_default=True,
    help="How many times as wide and high.",
)
@click.option(
    "--keep", type=Share(0, 1),
    help="Share of the enlarged picture's tokens that stay, spread over it.  [default: 0.5; models without scales]",
)  # fmt: skip
@click.option(
    "--scales", metavar="N", type=click.IntRange(0),
    help="Coarse scales that stay.  [default: those that the small picture has pixels for; next-scale models]",
)  # fmt: skip
@click.option(
    "--free",
    is_flag=True,
    help="Leave what was drawn as it is.  [default: made small again, it is the given picture]",
)
@overlap_option
@blend_option
@background_option
@application
def upscale(
    asked: Asked, factor: int, keep: float | None, scales: int | None, free: bool, overlap: float, blend: int | None
) -> None:
    """Give a PICTURE more pixels: what it shows stays, and the model draws the detail, window by window.

    A next-scale model keeps the picture's coarse scales and draws the finer ones, a masked model keeps tokens spread
    over the picture. Models that draw token by token cannot do it. The detail is made up.
    """
    how = {"factor": factor, "keep": keep, "scales": scales, "free": free, "overlap": overlap, "blend": blend}

    def make(given: Given) -> tuple[NDArray[np.uint8], int]:
        from compress.applications.upscale import upscale as drawn

        return drawn(
            given.model, given.image, given.wish, factor, keep, scales, overlap, blend, free=free, report=given.report
        )

    apply(asked, "upscale", how, make)
