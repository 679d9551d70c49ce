"""What is to be drawn, and what draws it with what stays of a given picture: `generate` and the applications.

Letters: N pictures, H x W pixels, C channels, P x D features of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import InputError
from compress.data.editing import Edit
from compress.models.candidate import Candidate
from export.runtime.drawing import Known
from export.runtime.options import Sampling
from export.runtime.throughput import batch_size, draw_pictures


@dataclass(frozen=True)
class Drawer:
    """A model, what it is called, and what stays of a given picture."""

    name: str
    model: Candidate
    edit: Edit | None = None


@dataclass(frozen=True)
class Wish:
    """What is drawn: classes (N,), the seed, features (N, P, D) of texts, pictures at once, and how they sample."""

    labels: NDArray[np.int64]
    seed: int
    features: NDArray[np.float32] | None
    batch: int
    sampling: Sampling

    def draw(
        self,
        drawer: Drawer,
        count: int = 0,
        report: Callable[[int, int], None] = lambda done, count: None,
        first: int = 0,
    ) -> NDArray[np.uint8]:
        """The pictures (N, H, W, C), or the first so many; `report` is told how many are done.

        `first` is the number of the first one among all of the seed: its noise depends on it.

        Raises:
            InputError: the model does not draw that.
        """
        rows = slice(count or None)
        edit = drawer.edit
        known = None if edit is None else Known(edit.known.tokens[rows], edit.known.where)
        features = None if self.features is None else self.features[rows]
        try:
            made = draw_pictures(
                drawer.model, self.labels[rows], self.seed, features=features, known=known, batch=self.batch,
                report=report, first=first, **self.sampling,
            )  # fmt: skip
        except ValueError as error:
            raise InputError(str(error)) from error
        return made if edit is None else edit.paste(made)

    def warm_up(self, drawer: Drawer) -> None:
        """Draw one batch, so that buffers of its size are there."""
        model = drawer.model
        self.draw(drawer, self.batch or batch_size(model.shape, model.sampler, model.cache_bytes))
