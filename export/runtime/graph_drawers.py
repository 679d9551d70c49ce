"""Drawing with graphs that choose tokens themselves, and comparing what they choose with the sampler outside.

Letters: R rows of a step, O logits of a position, B pictures, n positions of a choice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .cached_loops import Loop
from .choosing import Choice, Chosen, check_sound, choose
from .drawing import LogitsDrawer
from .sampling import Sampler
from .shape import Shape
from .signature import chosen_ports
from .uncached_loops import FedLoop

SURE = 1e-3  # by which logits and log-probabilities of one token may be rounded apart


class GraphDrawer(LogitsDrawer):
    """A drawer whose graph chooses the tokens; of the logits only sums are read, or the largest, to find NaN."""

    def __init__(self, loop: Loop | FedLoop) -> None:
        super().__init__(loop, loop.shape)
        self.loop = loop
        loop.choosing(True, logits=False)

    def begin(
        self,
        labels: NDArray[np.int64],
        features: NDArray[np.float32] | None,
        prompt: NDArray[np.int64] | None,
        choice: Choice | None,
    ) -> Chosen | None:
        """The first tokens, where the model is not masked."""
        if choice is not None:
            self.loop.take(choice)
        return super().begin(labels, features, prompt, choice)

    def step(self, tokens: NDArray[np.int64], choice: Choice, positions: NDArray[np.int64] | None = None) -> Chosen:
        """What is chosen next; of a masked model at these positions (n,)."""
        self.loop.take(choice)
        return super().step(tokens, choice, positions)

    def chosen(self, logits: NDArray[np.float32], choice: Choice) -> Chosen:
        """What the graph chose beside these logits (R, n, O) or sums of them (R, n)."""
        check_sound(logits.max(axis=-1))
        return self.loop.chosen()


class ComparingDrawer(GraphDrawer):
    """A drawer that chooses outside, too: `apart` of all `tokens` the graph chose, or was sure of, otherwise."""

    def __init__(self, loop: Loop | FedLoop, sampler: Sampler, shape: Shape) -> None:
        super().__init__(loop)
        loop.choosing(True)
        self.by_logit, self.surest = sampler.reveal == "logit", "sureness" in chosen_ports(shape, sampler)
        self.apart = self.tokens = 0

    def chosen(self, logits: NDArray[np.float32], choice: Choice) -> Chosen:
        """What the graph chose, which goes on."""
        found, outside = super().chosen(logits, choice), choose(logits, choice, with_sureness=self.surest)
        differs = found.tokens != outside.tokens
        if self.surest:
            sureness = outside.logit if self.by_logit else outside.log_probability
            differs |= ~np.isclose(found.log_probability, sureness, rtol=SURE, atol=SURE)
        self.apart, self.tokens = self.apart + int(differs.sum()), self.tokens + differs.size
        return found
