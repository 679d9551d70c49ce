"""The whole generation in one file against the same engine step by step: both draw the same tokens and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity

if TYPE_CHECKING:
    from compress.measure.subject import Subject

PICTURES = 16  # drawn at once, at most
# A token that rounding turns changes all behind it in its picture, which an int8 engine may do in one or two of them.
MOST_APART = 0.2
LEVELS = 1  # of 255, by which rounding to whole levels may part


@dataclass(frozen=True)
class OneFile(Measure):
    """What the file draws, from the same classes and seed as the engine."""

    name = "one_file"
    stage = "engines"
    promises = ("single_file_tokens", "single_file_images")
    title = "Single file"
    caption = "The whole generation in one file against the same engine step by step"

    pictures: int = setting(doc="pictures drawn both ways", low=1)
    tokens: float = quantity(
        doc="share of tokens that differ",
        unit="percent",
        column="other tokens %",
        gate=Limit("single_file_tokens", "most tokens that the single file draws otherwise, a share", high=1),
        low=0,
        high=1,
    )
    values: float = quantity(
        doc=f"share of the colour values that are more than {LEVELS} level from those of the engine's own decoder for "
        "the same tokens",
        unit="percent",
        column="other colours %",
        low=0,
        high=1,
    )

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Engines that hold such a file."""
        engine = subject.candidate.engine
        return engine is not None and "generate" in engine.manifest.files

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The candidate alone."""
        return subject.candidate.key, subject.given.seed, subject.given.fingerprint

    @classmethod
    def run(cls, subject: Subject) -> OneFile:
        """Draw both ways."""
        engine, given = subject.candidate.engine, subject.given
        assert engine is not None
        labels, features = given.conditions(min(PICTURES, max(given.samples, 1)))
        tokens, images = engine.draw_in_one(labels, given.seed, features)
        stepwise = engine.draw_tokens(labels, given.seed, features=features)
        decoded = engine.decode_images(tokens)
        far = np.abs(images.astype(np.int16) - decoded) > LEVELS
        return cls(len(labels), float((tokens != stepwise).mean()), float(far.mean()))

    def broken(self) -> Iterator[Broken]:
        """It draws what the engine draws."""
        if self.tokens > MOST_APART:
            text = f"its single file draws {100 * self.tokens:.3g} % other tokens than the engine step by step"
            yield Broken("single_file_tokens", self.tokens, MOST_APART, text)
        if self.values > 0:
            text = f"its single file shows {100 * self.values:.3g} % other colours than the engine's image decoder"
            yield Broken("single_file_images", self.values, 0, text)
