"""A slice of the pictures of a comparison, and what one model does with it: the same in whatever process it is done.

Letters: n pictures of a slice, T tokens of a picture, V logits of a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

if TYPE_CHECKING:
    from compress.measure.subject import Given
    from compress.models.candidate import Candidate

Work = Literal["drawn", "scored", "unconditional"]


@dataclass(frozen=True)
class Slice:
    """Pictures from `first` on that a model draws (with the given seed or one behind it) or scores."""

    work: Work
    first: int
    count: int
    other_seed: int = 0

    @property
    def rows(self) -> slice:
        """Where they are among all."""
        return slice(self.first, self.first + self.count)

    @property
    def words(self) -> str:
        """For people."""
        seed = f" with seed + {self.other_seed}" if self.other_seed else ""
        return f"pictures {self.first} to {self.first + self.count - 1} {self.work}{seed}"

    def done(self, model: Candidate, given: Given) -> NDArray[Any]:
        """Tokens (n, T) that the model draws, or its logits (n, T, V)."""
        if self.work == "drawn":
            labels, features = given.once("conditions of drawn", lambda: given.conditions(given.samples))
            text = None if features is None else features[self.rows]
            return model.draw_tokens(labels[self.rows], given.seed + self.other_seed, features=text, first=self.first)
        few = given.examples.take(self.rows)
        if self.work == "unconditional":
            few = few.unconditional(given.shape)
        return model.score(few.inputs, few.features)


def slices(work: Work, count: int, size: int, other_seed: int = 0) -> list[Slice]:
    """So many pictures in slices of at most `size`, which begin at its multiples whoever does them."""
    return [Slice(work, start, min(size, count - start), other_seed) for start in range(0, count, size)]
