"""A model with its guidance applied, as one of which guidance is inside: what such a model is compared with.

Letters: N pictures, T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.models.candidate import Candidate
from compress.models.transformer.examples import without_class
from export.runtime.choosing import lead
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

if TYPE_CHECKING:
    from export.runtime.drawing import Known


class Guided:
    """A candidate that gives the logits which guidance makes of its two rows; all else is the candidate's own.

    The guidance is that of a `sampler`, which may be another than the candidate's.
    """

    def __init__(self, unguided: Candidate, sampler: Sampler) -> None:
        self.unguided, self.sampler = unguided, sampler.with_guidance_inside()

    def __getattr__(self, name: str) -> Any:
        if name == "unguided":  # not set yet: copying asks for attributes before there are any
            raise AttributeError(name)
        return getattr(self.unguided, name)

    def score(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...)."""
        return self.led(self.unguided.score, inputs, features)

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits step by step as when drawing."""
        return self.led(self.unguided.score_stepwise, inputs, features)

    def led(
        self,
        score: Callable[..., NDArray[np.float32]],
        inputs: NDArray[np.int64],
        features: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        """What guidance makes of the logits of the class and of none."""
        shape = self.unguided.shape
        scales = guidance_of(self.sampler, shape, scored_of(shape, inputs))
        given, null = score(inputs, features), score(without_class(shape, inputs), features)
        led: NDArray[np.float32] = lead(given, null, scales[..., None])
        return led

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
        first: int = 0,
        on_step: Callable[[], None] | None = None,
    ) -> NDArray[np.int64]:
        """Tokens (N, T) of new pictures of these classes (N,), drawn with two rows for each."""
        outside = self.sampler.admitted(sampler).with_guidance_outside()
        return self.unguided.draw_tokens(labels, seed, outside, features, known, first, on_step)


def guidance_of(sampler: Sampler, shape: Shape, scored: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The scale of guidance (N, T) at each token, by the step at which it would be drawn.

    `scored` (N, T) are the tokens that are asked for; how many of a masked picture are says which step it is.
    """
    steps, count = shape.drawing.step_of_each(scored, shape, sampler)
    return np.array([sampler.guidance_at(step, count) for step in range(count)], dtype=np.float32)[steps]


def scored_of(shape: Shape, inputs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The tokens (N, T) that inputs (N, 1 + ...) ask for."""
    if shape.drawing.masks:
        masked: NDArray[np.bool_] = inputs[:, 1:] == shape.mask_token
        return masked
    return np.ones((len(inputs), shape.length), dtype=bool)
