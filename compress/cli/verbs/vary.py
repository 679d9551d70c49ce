"""The command `vary`: variations of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compress.applications.limits import WIDEST_BLEND
from compress.cli.applying import Asked, Given, application, apply
from compress.cli.group import example
from compress.cli.paths import Share
from compress.cli.reading import reading_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.applications.staying import Where


@click.command()
@example("compress vary emoji-masked panda.png --label fox --keep 0.5 --count 4 -o foxes.png")
@click.option(
    "--keep", type=Share(0, 1), default=0.5, show_default=True,
    help="Share of the picture's tokens that stay: 1 is the picture as the model's decoder shows it, 0 a new one.",
)  # fmt: skip
@click.option(
    "--where", type=click.Choice(["first", "spread", "random"]),
    help="Which stay: the first of the drawing, some spread over the picture, or any, by the seed.  [default: spread; "
    "the first, coarse scales, of next-scale models]",
)  # fmt: skip
@click.option(
    "--blend", metavar="PIXELS", type=click.IntRange(0, WIDEST_BLEND),
    help="Paste the pixels of tokens that stay back unchanged, with a soft border of this width.  [default: none]",
)  # fmt: skip
@reading_options
@application
def vary(asked: Asked, keep: float, where: Where | None, blend: int | None) -> None:
    """Draw variations of a PICTURE: a share of its tokens stays, the rest is drawn anew.

    With --label the rest is of that class, so the picture takes on its look. Without one it is unconditional.
    """

    def make(given: Given) -> tuple[NDArray[np.uint8], int]:
        from compress.applications.vary import vary as drawn

        reading, tally, report = given.reading, given.tally, given.report
        made = drawn(
            given.model, given.image, given.wish, keep, where, blend, reading=reading, tally=tally, report=report
        )
        return made, 1

    apply(asked, "vary", {"keep": keep, "where": where, "blend": blend}, make)
