"""What drawing and deploying need to know of a model's tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from .orders import DrawingOrder, order_called
from .strict_json import whole

MOST_IDS = 2**31 - 1
LONGEST = 2**16  # sides, texts and widths; far beyond every model, and products of two stay whole numbers


@dataclass(frozen=True)
class TextShape:
    """A text condition: features (length, width) of an encoder."""

    length: int = field(metadata=whole(1, LONGEST))
    width: int = field(metadata=whole(1, LONGEST))


@dataclass(frozen=True)
class Shape:
    """The order of drawing, and the numbers of tokens and classes.

    Ids: tokens 0 to vocabulary - 1, then the mask token of a masked model, the classes, the null class, and a start
    token where `lead` is 1. `outputs` 0: a logit for each token. `modulated`: every call reads the classes.
    `latent_width` is the width of what a next-scale model reads.
    """

    order: str
    vocabulary: int = field(metadata=whole(1, MOST_IDS))
    classes: int = field(metadata=whole(0, MOST_IDS))
    grid: tuple[int, int] = field(metadata=whole(1, LONGEST))
    lead: int = field(default=0, metadata=whole(0, 1))
    outputs: int = field(default=0, metadata=whole(0, MOST_IDS))
    modulated: bool = False
    text: TextShape | None = None
    scales: tuple[int, ...] = field(default=(), metadata=whole(1, LONGEST))
    latent_width: int = field(default=0, metadata=whole(0, LONGEST))

    def __post_init__(self) -> None:
        order_called(self.order)  # refuses a name that is none

    @property
    def drawing(self) -> DrawingOrder:
        """The order of drawing, with all that depends on it."""
        return order_called(self.order)

    @property
    def length(self) -> int:
        """Tokens of one picture, over all scales."""
        return sum(side * side for side in self.scales) or self.grid[0] * self.grid[1]

    def side_at(self, start: int) -> int:
        """The side of the scale whose tokens begin at `start`."""
        for side in self.scales:
            if start == 0:
                return side
            start -= side * side
        raise ValueError(f"no scale of {self.scales} begins there")

    @property
    def labelled(self) -> bool:
        """Whether a call reads the classes apart from the tokens."""
        return self.modulated or self.text is not None or not self.drawing.sequential

    @property
    def prefix(self) -> int:
        """Positions up to the one that predicts the first token, of a causal model."""
        return self.text.length if self.text else self.lead + 1

    @property
    def reach(self) -> int:
        """Positions that a picture needs."""
        return self.drawing.reach(self)

    @property
    def mask_token(self) -> int:
        """The id of a masked position."""
        return self.vocabulary

    @property
    def first_class(self) -> int:
        """The id of class 0."""
        return self.vocabulary + self.drawing.masks

    @property
    def null_class(self) -> int:
        """The class that stands for no class (the unconditional branch of guidance)."""
        return self.classes

    @property
    def start_token(self) -> int:
        """The id of what stands before the class, where something does."""
        return self.first_class + self.classes + 1

    @property
    def predicted(self) -> int:
        """Logits of a position."""
        return self.outputs or self.vocabulary


class Shaped:
    """What has a shape, with the numbers that are asked of it most often."""

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        """Image tokens."""
        return self.shape.vocabulary

    @property
    def classes(self) -> int:
        """Classes, without the null class."""
        return self.shape.classes

    @property
    def length(self) -> int:
        """Tokens of a picture."""
        return self.shape.length
