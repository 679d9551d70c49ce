"""How a picture is written in a foreign model's ids.

Letters: L ids of a prompt, T tokens of a picture, V image tokens, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from export.runtime.shape import Shape


@dataclass(frozen=True)
class Writing:
    """How a picture is written in a foreign model's ids.

    `image_ids` has the id of each image token; `prompts` the ids before a picture for each class, then for no class;
    `row_end` what follows each row of tokens but the last. Prompts of different lengths are padded on the left, and
    what is padded is hidden from attention.
    """

    grid: tuple[int, int]
    image_ids: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    row_end: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.prompts or not all(self.prompts):
            raise ValueError("a prompt without ids: a decoder predicts the first token from at least one id before it")
        if len(set(self.image_ids)) != len(self.image_ids):
            raise ValueError("two image tokens have the same id")

    @property
    def shape(self) -> Shape:
        """As the runtime knows it; prompts that are padded need the classes at every call, for the mask."""
        return Shape("causal", len(self.image_ids), len(self.prompts) - 1, self.grid, modulated=self.padded)

    @property
    def longest(self) -> int:
        """Ids of a prompt, padding included."""
        return max(map(len, self.prompts))

    @property
    def padding(self) -> NDArray[np.int64]:
        """Hidden positions before each prompt (C + 1,)."""
        return np.array([self.longest - len(prompt) for prompt in self.prompts], dtype=np.int64)

    @property
    def padded(self) -> bool:
        """Whether prompts differ in length."""
        return bool(self.padding.any())

    @property
    def one_for_one(self) -> bool:
        """Whether each of our tokens is one id of the model."""
        return self.longest == 1 and not self.row_end

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The model's ids: of image tokens (V), of prompts ((C + 1) * L), of what ends a row."""
        padded = [(0,) * (self.longest - len(prompt)) + prompt for prompt in self.prompts]
        return np.array([*self.image_ids, *np.ravel(padded), *self.row_end], dtype=np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Ids that each of our tokens becomes (T,): the class, then every image token but the last."""
        lengths = np.ones(self.grid[0] * self.grid[1], dtype=np.int64)
        lengths[0] = self.longest
        lengths[self.grid[1] :: self.grid[1]] += len(self.row_end)
        return lengths

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """Which of our tokens each id belongs to, and how its place in `table` follows: token * factor + offset.

        Three rows, one column for each id of a whole picture.
        """
        vocabulary, rows = len(self.image_ids), []
        ends = vocabulary + len(self.prompts) * self.longest
        for owner, length in enumerate(self.lengths):
            if owner == 0:  # class c has the id V + c, and its prompt begins at V + c * L
                first = vocabulary - vocabulary * self.longest
                rows += [(0, self.longest, first + place) for place in range(self.longest)]
            else:
                rows += [(owner, 1, 0), *((owner, 0, ends + place) for place in range(length - 1))]
        return np.array(rows, dtype=np.int64).T
