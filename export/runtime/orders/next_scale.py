"""Scale by scale, all tokens of one at once, from latents of the coarser ones (VAR, arXiv 2404.02905)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import DrawingOrder

if TYPE_CHECKING:
    from ..drawing import Drawer, Runner, Task
    from ..sampling import Sampler
    from ..shape import Shape


class NextScale(DrawingOrder):
    """VAR's order."""

    name = "next-scale"
    words = "scale by scale"
    scaled = True

    def steps(self, shape: Shape, sampler: Sampler) -> int:
        """One for each scale."""
        return len(shape.scales)

    def step_of_each(self, scored: NDArray[np.bool_], shape: Shape, sampler: Sampler) -> tuple[NDArray[np.int64], int]:
        """The number of the token's scale."""
        sizes = [side * side for side in shape.scales]
        return np.broadcast_to(np.repeat(np.arange(len(sizes)), sizes), scored.shape), len(sizes)

    def draw(self, drawer: Drawer, task: Task) -> NDArray[np.int64]:
        """Scale by scale."""
        scales, start = task.shape.scales, 0
        tokens = np.zeros((task.count, task.shape.length), dtype=np.int64)
        for index, side in enumerate(scales):
            choice = task.choice(index, len(scales), side * side)
            chosen = drawer.step(task.rows(tokens), choice) if index else task.begin(drawer, choice)
            assert chosen is not None
            tokens[:, start : start + side * side] = task.kept(chosen.tokens, start)
            start += side * side
        return tokens

    def score_stepwise(
        self, runner: Runner, first: NDArray[np.float32] | None, shown: NDArray[np.int64], shape: Shape
    ) -> NDArray[np.float32]:
        """One call for each scale, which reads the tokens of the coarser ones."""
        assert first is not None
        parts, start = [first.copy()], 0
        for side in shape.scales[:-1]:
            start += side * side
            parts.append(runner.step(np.where(np.arange(shape.length) < start, shown, 0)).copy())
        return np.concatenate(parts, axis=1)


ORDER = NextScale()
