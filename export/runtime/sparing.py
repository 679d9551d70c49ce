"""Drawing with one row for each picture at steps where guidance is not applied, and with two elsewhere.

Letters: B pictures, R rows of a step (B or 2B), P x C features of a text, n positions of a choice.

The pictures are those of two rows at every step, where guidance of scale 1 gives back the logits of the class; only
rounding can differ. Kynkaanniemi et al. (arXiv 2404.07724) find that guidance in a limited interval draws better
pictures, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .cached_loops import Loop
from .choosing import Choice, Chosen
from .drawing import Drawer
from .noise import Noise, NoiseOfEach, NoiseSource
from .shape import Shape
from .uncached_loops import FedLoop

CATCH_UP = 4  # pictures: of fewer, a step waits for weights, and a second row is nearly free (docs/drawing.md)

Opened = tuple[Loop | FedLoop, Drawer]


class SparingDrawer:
    """A drawer that is given two rows of each picture, and computes those without class only where they count.

    `opened` gives a loop for so many rows, and what draws with it. Where steps remember what was read, the caches move
    between loops: rows are left out without being computed again. When guidance begins later than the first step, a
    causal model reads what was drawn so far without class in one call. A next-scale model could not, and for few
    pictures that would take longer than a second row at every step: there are two rows then, until guidance ends.
    """

    def __init__(self, opened: Callable[[int], Opened], shape: Shape, pictures: int) -> None:
        self.opened, self.shape, self.pictures = opened, shape, pictures
        self.open: dict[int, Opened] = {}  # by rows
        self.begun: set[int] = set()  # rows of loops that know the classes, of a masked model
        self.rows = 0  # of the last step
        self.guided = False  # whether guidance was applied yet
        self.rows_of_steps: list[int] = []

    def noise(self, made: Noise | NoiseOfEach) -> NoiseSource:
        """The same: loops on the host take it as it is."""
        return made

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """The first tokens, where the model is not masked: a loop of that begins when it is needed."""
        self.labels, self.features = labels, features
        self.read = [] if prompt is None else [prompt[: self.pictures]]
        if choice is None:
            return None
        self.rows = self.rows_for(choice)
        rows = slice(self.rows)
        return self.noted(
            self.drawer(self.rows).begin(*self.given(rows), None if prompt is None else prompt[rows], choice)
        )

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """What is chosen next, behind tokens of two rows of each picture."""
        wanted = self.rows_for(choice)
        if self.shape.drawing.masks:
            if wanted not in self.begun:
                self.drawer(wanted).begin(*self.given(slice(wanted)), None, None)
                self.begun.add(wanted)
        elif wanted < self.rows:
            self.narrow()
        elif wanted > self.rows:
            self.widen()
        self.rows = wanted
        self.read.append(tokens[: self.pictures])
        found = self.noted(self.drawer(wanted).step(tokens[:wanted], choice, positions))
        assert found is not None
        return found

    def rows_for(self, choice: Choice) -> int:
        """How many a step needs."""
        self.guided |= choice.guidance != 1
        order = self.shape.drawing
        later = order.masks or (order.sequential and self.pictures >= CATCH_UP)
        both = choice.guidance != 1 or not (self.guided or later)
        return 2 * self.pictures if both else self.pictures

    def noted(self, chosen: Chosen | None) -> Chosen | None:
        """What was chosen, with its rows counted."""
        self.rows_of_steps.append(self.rows)
        return chosen

    def given(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """Classes and features of some rows."""
        return self.labels[rows], None if self.features is None else self.features[rows]

    def drawer(self, rows: int) -> Drawer:
        """What draws so many rows."""
        return self.loop(rows)[1]

    def loop(self, rows: int) -> Opened:
        """The loop of so many rows."""
        if rows not in self.open:
            self.open[rows] = self.opened(rows)
        return self.open[rows]

    def narrow(self) -> None:
        """Leave out the rows without class."""
        first = slice(self.pictures)
        both, one = self.loop(self.rows)[0], self.loop(self.pictures)[0]
        one.resume(*self.given(first), {name: rows[first] for name, rows in both.held().items()}, both.position)

    def widen(self) -> None:
        """Read what was drawn so far without class, and go on with both."""
        without = slice(self.pictures, 2 * self.pictures)
        prompt = np.concatenate(self.read, axis=1) if self.read else None
        null = self.opened(self.pictures)[0]
        null.begin(*self.given(without), prompt)
        one, both = self.loop(self.pictures)[0], self.loop(2 * self.pictures)[0]
        below = null.held()
        held = {name: np.concatenate([rows, below[name]]) for name, rows in one.held().items()}
        both.resume(*self.given(slice(None)), held, one.position)
