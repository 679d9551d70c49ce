"""What a user sees: the rounded `images` of an engine against the reference's, and against its own `pixels`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.pictures.decoding import psnr
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity
from compress.measure.statistics import bootstrap_mean
from compress.models.candidate import pixels_of

if TYPE_CHECKING:
    from compress.measure.subject import Subject

PICTURES = 16  # three times decoded
WHITE = 255
LEVELS = 1  # by which rounding to whole levels may part


@dataclass(frozen=True)
class Shown(Measure):
    """Pictures (uint8) of held-out tokens as they are shown; intervals are a 95 % bootstrap over pictures."""

    name = "shown"
    version = 2
    stage = "graphs"
    promises = ("images",)
    title = "Pictures shown"
    caption = "Rounded pictures of the same tokens, against the reference's and against the engine's own float pixels"

    pictures: int = setting(doc="pictures that were decoded", low=2)
    psnr: float = quantity(
        doc="mean over pictures of the peak signal to noise ratio of what is shown, dB",
        unit="dB",
        better="higher",
        column="PSNR, dB",
        gate=Limit("images_psnr", "least PSNR of the pictures shown against the reference's of the same tokens, dB"),
    )
    psnr_ci95: tuple[float, float] = setting(doc="its interval")
    unlike_pixels: float = quantity(
        doc=f"share of the colour values more than {LEVELS} level from the decoder's own float pixels; 0 without any",
        unit="percent",
        column="unlike own pixels %",
        low=0,
        high=1,
    )

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Shown:
        """Decode with both."""
        given, candidate, reference = subject.given, subject.candidate.model, subject.reference.model
        tokens = given.examples.targets[:PICTURES]
        own, theirs = candidate.decode_images(tokens), reference.decode_images(tokens)
        found = [psnr(each / WHITE, other / WHITE) for each, other in zip(own, theirs, strict=True)]
        mean = bootstrap_mean(np.array(found), given.seed)
        unlike = 0.0
        if (pixels := pixels_of(candidate)) is not None:
            rounded = [np.rint(pixels(tokens[[row]])[0].clip(0, 1) * WHITE) for row in range(len(tokens))]
            unlike = float((np.abs(np.stack(rounded) - own) > LEVELS).mean())
        return cls(len(tokens), mean.value, mean.ci95, unlike)

    def broken(self) -> Iterator[Broken]:
        """What is shown is the decoder's own pixels, rounded."""
        if self.unlike_pixels > 0:
            text = f"{100 * self.unlike_pixels:.3g} % of the colours shown are not the image decoder's pixels, rounded"
            yield Broken("images", self.unlike_pixels, 0, text)
