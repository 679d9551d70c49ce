"""What drawing and deploying need to know of a model's tokens."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import shown
from .orders import DrawingOrder, order_called
from .strict_json import whole

MOST_IDS = 2**31 - 1
LONGEST_NAME = 200  # letters of a class's name
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
    `latent_width` is the width of what a next-scale model reads. `class_names` name each class, or there are none.
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
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        order_called(self.order)  # refuses a name that is none
        check_class_names(self.class_names, self.classes)

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

    def class_called(self, name: str) -> int:
        """The class of this name.

        Raises:
            ValueError: none has it; the nearest is suggested.
        """
        if name in self.class_names:
            return self.class_names.index(name)
        if not self.class_names:
            raise ValueError(f"label {shown(name)} is not a class; the classes of this model have numbers, no names")
        close = difflib.get_close_matches(name[:LONGEST_NAME], self.class_names, n=1, cutoff=0.5)
        hint = f"; did you mean {shown(close[0])}?" if close else f"; the first is {shown(self.class_names[0])}"
        raise ValueError(f"label {shown(name)} is not a class{hint}")

    def class_name(self, label: int) -> str:
        """What a class is called: its name, its number where classes have none, or nothing for the null class."""
        if label == self.null_class:
            return ""
        return self.class_names[label] if self.class_names else str(label)

    @property
    def start_token(self) -> int:
        """The id of what stands before the class, where something does."""
        return self.first_class + self.classes + 1

    @property
    def predicted(self) -> int:
        """Logits of a position."""
        return self.outputs or self.vocabulary


def check_class_names(names: Sequence[str], classes: int) -> None:
    """Refuse names that do not name each class, and each by another name.

    Raises:
        ValueError: the name is shown.
    """
    if names and len(names) != classes:
        raise ValueError(f"class_names has {len(names)} names for {classes} classes")
    seen = set()
    for name in names:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"class_names: {shown(name)} is no name; printable text of at most {LONGEST_NAME} letters is"
            )
        if name in seen:
            raise ValueError(f"class_names: {shown(name)} stands there twice")
        seen.add(name)


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
