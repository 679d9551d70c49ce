"""Pictures that the student itself draws, for the teacher to score (on-policy distillation, GKD, arXiv 2306.13649).

Letters: N pictures, T tokens of a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.tokens import TokenSet
from compress.models.image_model import TorchRunner
from compress.models.transformer.model import TokenTransformer
from compress.training.teaching import LARGE_PRIME
from compress.training.world import ALONE, World
from export.runtime.drawing import LogitsDrawer, draw
from export.runtime.noise import SEEDS
from export.runtime.sampling import Sampler

AT_ONCE = 32  # pictures drawn together


class OwnPictures:
    """Every `every` steps the student, as it is then, draws `count` pictures; the steps until the next choose of these.

    Classes (and texts) are those of training pictures. All randomness follows from (seed, step), and the last drawing
    is part of a checkpoint, so a training that resumes goes on with the same pictures. Of several processes each draws
    a share of them.
    """

    def __init__(
        self,
        student: Callable[[], TokenTransformer],
        sampler: Sampler,
        training: TokenSet,
        *,
        count: int,
        every: int,
        seed: int,
        world: World = ALONE,
    ) -> None:
        self.world = world
        self.student, self.sampler, self.training = student, sampler, training
        self.count, self.every, self.seed = count, every, seed
        self.rows = np.empty(0, dtype=np.int64)  # of the training pictures whose conditions they were drawn for
        self.tokens = np.empty((0, training.tokens.shape[1]), dtype=np.int64)

    def at(self, step: int, chosen: int) -> TokenSet:
        """So many of the pictures of this step, in an order of its own."""
        if step % self.every == 0:
            self.rows, self.tokens = self.drawn(step)
        order = self.generator(step, 3).permutation(self.count)[:chosen]
        return self.given(self.rows[order], self.tokens[order])

    def drawn(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows (N,) of training pictures, and tokens (N, T) drawn for their conditions."""
        available = len(self.training)
        rows = self.generator(step, 2).choice(available, size=self.count, replace=self.count > available)
        transformer = self.student()
        shape, seed, parts = transformer.config.shape, (self.seed * LARGE_PRIME + step) % SEEDS, []
        drawer, own = LogitsDrawer(TorchRunner(transformer), shape), self.world.rows(self.count)
        for start in range(own.start, own.stop, AT_ONCE):
            few = self.training.take(rows[start : min(start + AT_ONCE, own.stop)])
            parts.append(draw(drawer, few.labels, shape, self.sampler, seed, few.features, first=start))
        return rows, self.world.rows_of_all(np.concatenate(parts))

    def given(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> TokenSet:
        """Tokens (N, T) with the conditions of training pictures (N,)."""
        condition = self.training.take(rows)
        return TokenSet(tokens, condition.labels, condition.parts, condition.features)

    def generator(self, step: int, use: int) -> np.random.Generator:
        """The randomness of a step, for one use."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, use, step]))

    def state_dict(self) -> dict[str, Any]:
        """The last drawing."""
        return {"rows": torch.from_numpy(self.rows), "tokens": torch.from_numpy(self.tokens)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a drawing that was kept."""
        self.rows, self.tokens = state["rows"].numpy(), state["tokens"].numpy()
