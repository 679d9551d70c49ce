"""The command `outpaint`: a picture beyond its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from compress.applications.limits import MOST_OVERLAP, WIDEST_BLEND
from compress.cli.applying import Asked, Given, application, apply
from compress.cli.group import example
from compress.cli.paths import Share
from compress.cli.reading import background_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


overlap_option = click.option(
    "--overlap", type=Share(0, MOST_OVERLAP), default=0.5, show_default=True,
    help="Share of a side that neighbouring windows have in common, at least one token.",
)  # fmt: skip
blend_option = click.option(
    "--blend", metavar="PIXELS", type=click.IntRange(0, WIDEST_BLEND),
    help="Width over which drawn pixels are brought to the given ones beside them; 0 is a hard edge.  [default: half "
    "of a token's side]",
)  # fmt: skip


@click.command()
@example("compress outpaint emoji-masked rainbow.png --extend left=0.5,right=0.5 --label rainbow -o wide.png")
@click.option(
    "--extend", metavar="SIDE=SHARE", required=True,
    help="How far to go on, in shares of the picture's width or height: right=0.5, or left=0.5,top=0.25, or all=0.5.",
)  # fmt: skip
@overlap_option
@blend_option
@click.option(
    "--own-size",
    is_flag=True,
    help="Leave the picture's pixels as they are.  [default: its shorter side is scaled to the model's]",
)
@background_option
@application
def outpaint(asked: Asked, extend: str, overlap: float, blend: int | None, own_size: bool) -> None:
    """Continue a PICTURE beyond its edges, window by window, so pictures may be larger than the model's.

    The picture's own pixels stay, byte for byte. Masked and next-scale models go on to every side; one that draws
    token by token to those where its tokens come behind the picture's: right and bottom.
    """
    from compress.applications.sides import parsed_sides

    sides = parsed_sides(extend)

    def make(given: Given) -> tuple[NDArray[np.uint8], int]:
        from compress.applications.outpaint import outpaint as drawn

        return drawn(
            given.model, given.image, given.wish, sides, overlap, blend, own_size=own_size, report=given.report
        )

    apply(asked, "outpaint", {"extend": sides, "overlap": overlap, "blend": blend, "own_size": own_size}, make)
