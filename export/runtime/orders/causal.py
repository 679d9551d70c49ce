"""Token by token, row by row: every token is read behind those before it, through a KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import DrawingOrder

if TYPE_CHECKING:
    from ..drawing import Drawer, Runner, Task
    from ..sampling import Sampler
    from ..shape import Shape


class Causal(DrawingOrder):
    """GPT's order: LlamaGen, ImageGPT, RAR, taming-transformers."""

    name = "causal"
    words = "token by token"
    sequential = True
    most_at_once = 32

    def reach(self, shape: Shape) -> int:
        """Positions that a picture needs: what stands before it, and all of its tokens but the last."""
        return shape.prefix + shape.length - 1

    def positions_of_call(self, shape: Shape) -> int:
        """One."""
        return 1

    def steps(self, shape: Shape, sampler: Sampler) -> int:
        """One for each token."""
        return shape.length

    def step_of_each(self, scored: NDArray[np.bool_], shape: Shape, sampler: Sampler) -> tuple[NDArray[np.int64], int]:
        """The token's own number."""
        return np.broadcast_to(np.arange(shape.length), scored.shape), shape.length

    def shown(self, tokens: NDArray[np.int64], shape: Shape, seed: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """All but the last token (B, T - 1), which nothing is read behind."""
        return tokens[:, :-1], np.ones(tokens.shape, dtype=bool)

    def draw(self, drawer: Drawer, task: Task) -> NDArray[np.int64]:
        """Token by token; known ones from the first on are read all at once."""
        length = task.shape.length
        tokens = np.empty((task.count, length), dtype=np.int64)
        given = 0
        if task.known is not None:
            given = length if task.known.where.all() else int(np.argmin(task.known.where))
            tokens[:, :given] = task.known.tokens[:, :given]
        if given == length:
            return tokens
        chosen = task.begin(drawer, task.choice(given, length, 1), tokens[:, :given] if given else None)
        assert chosen is not None
        for position in range(given, length):
            tokens[:, position : position + 1] = kept = task.kept(chosen.tokens, position)
            if position + 1 < length:
                chosen = drawer.step(task.rows(kept), task.choice(position + 1, length, 1))
        return tokens

    def score_stepwise(
        self, runner: Runner, first: NDArray[np.float32] | None, shown: NDArray[np.int64], shape: Shape
    ) -> NDArray[np.float32]:
        """One call for each token."""
        assert first is not None
        parts = [first.copy()]
        parts += [runner.step(shown[:, [position]]).copy() for position in range(shown.shape[1])]
        return np.concatenate(parts, axis=1)


ORDER = Causal()
