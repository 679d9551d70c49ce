"""How users' pictures of any shape and transparency become pictures of one size, and what was done to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from compress.core.settings import setting, shown

Fit = Literal["crop", "pad", "stretch"]
COLOUR = re.compile("#[0-9a-fA-F]{6}")
WHITE = "#ffffff"
FITTED = {
    "crop": "cropped to it around the centre (fit: pad or stretch keeps all of each)",
    "pad": "padded to it with {background}",
    "stretch": "stretched to it",
}


@dataclass(frozen=True)
class Reading:
    """How a picture gets the aspect of the model's, and what is behind one with transparency."""

    fit: Fit = setting("crop", doc="what pictures of another aspect are: cropped, padded, or stretched")
    background: str = setting(WHITE, doc="colour behind what is transparent, and of padding: '#rrggbb'")

    def __post_init__(self) -> None:
        """Refuse what is no colour.

        Raises:
            ValueError: says how one is written.
        """
        if not COLOUR.fullmatch(self.background):
            raise ValueError(f"background {shown(self.background)} is not a colour like '#ffffff' or '#1e90ff'")

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background, 0 to 255."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue

    @property
    def grey(self) -> bool:
        """Whether the background is black, grey or white."""
        return len({*self.colour}) == 1


AS_USUAL = Reading()


@dataclass
class Tally:
    """How many pictures were read, and of how many only a part or something else is seen."""

    pictures: int = 0
    reshaped: int = 0  # whose aspect is another one
    transparent: int = 0
    animated: int = 0  # of which the first frame is read

    def words(self, reading: Reading, picture: tuple[int, int, int]) -> list[str]:
        """A line for each thing that was done to pictures (H, W, C); none where they were read as they are."""
        size = f"{picture[1]}:{picture[0]}" if picture[0] != picture[1] else "square"
        done = FITTED[reading.fit].format(background=reading.background)
        counted = (
            (self.reshaped, f"of another aspect than {size}: {done}"),
            (self.transparent, f"with transparency: on {reading.background}, the background"),
            (self.animated, "of several frames: the first is read"),
        )
        noun = "picture" if self.pictures == 1 else "pictures"
        return [f"{count} of {self.pictures} {noun} {what}" for count, what in counted if count]
