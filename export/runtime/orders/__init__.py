"""The orders in which a picture's tokens are drawn: one object each, which knows all that differs between them.

`causal.py` draws token by token, `masked.py` mask by mask, `next_scale.py` scale by scale. Each is an instance of a
subclass of `DrawingOrder`, found by its name, which manifests and configs hold. Third parties add theirs through the
entry-point group `compress.orders`, whose entries name a `DrawingOrder`.

Letters: B pictures, R rows of a step, T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..drawing import Drawer, Runner, Task
    from ..sampling import Sampler
    from ..shape import Shape

ENTRY_POINTS = "compress.orders"
OWN = ("causal", "masked", "next-scale")


class DrawingOrder(ABC):
    """What a model reads at a step, what it predicts there, and how a picture comes of it.

    `masks`: what is not drawn yet is a mask token, every step reads the whole picture, and there is no cache.
    `sequential`: each token is read behind those before it, so a prompt can be continued, and the likelihood of a
    picture is the product of its tokens'. `scaled`: latents of the coarser scales are read, not tokens. `words` say in
    a message how the model draws. More than `most_at_once` pictures share nothing more: weights are read once for a
    step of all, and then arithmetic is what takes the time.
    """

    name: ClassVar[str]
    words: ClassVar[str]
    masks: ClassVar[bool] = False
    sequential: ClassVar[bool] = False
    scaled: ClassVar[bool] = False
    most_at_once: ClassVar[int] = 4

    def reach(self, shape: Shape) -> int:
        """Positions that a picture needs."""
        return shape.length

    def positions_of_call(self, shape: Shape) -> int:
        """Positions that one call of drawing computes at most."""
        return shape.length

    @abstractmethod
    def steps(self, shape: Shape, sampler: Sampler) -> int:
        """Steps of a picture."""

    @abstractmethod
    def step_of_each(self, scored: NDArray[np.bool_], shape: Shape, sampler: Sampler) -> tuple[NDArray[np.int64], int]:
        """The step (B, T) at which each token would be drawn, and the number that schedules count to.

        `scored` (B, T) are the tokens that are asked for.
        """

    def drawn_first(self, shape: Shape) -> NDArray[np.int64]:
        """Positions (T,), those that are drawn first before the others."""
        return np.arange(shape.length)

    def shown(self, tokens: NDArray[np.int64], shape: Shape, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What a model reads (B, ...) of true tokens (B, T) behind the class, and which it is asked for (B, T)."""
        return tokens, np.ones(tokens.shape, dtype=bool)

    @abstractmethod
    def draw(self, drawer: Drawer, task: Task) -> NDArray[np.int64]:
        """Tokens (B, T) of new pictures."""

    @abstractmethod
    def score_stepwise(
        self, runner: Runner, first: NDArray[np.float32] | None, shown: NDArray[np.int64], shape: Shape
    ) -> NDArray[np.float32]:
        """Logits (B, T, O), step by step; `first` is what the runner gave when it began, `shown` what it reads."""


@cache
def order_called(name: str) -> DrawingOrder:
    """The order of this name.

    Raises:
        ValueError: there is none.
    """
    if name in OWN:
        own: DrawingOrder = import_module(f".{name.replace('-', '_')}", __name__).ORDER
        return own
    from importlib.metadata import entry_points  # takes a while to import

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        added: DrawingOrder = entry.load()
        return added
    raise ValueError(f"order {name[:100]!r} is not one of {', '.join(map(repr, OWN))}")
