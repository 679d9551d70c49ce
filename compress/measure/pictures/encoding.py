"""The image encoder against the reference's: the tokens that both make of the same pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity
from compress.measure.statistics import bootstrap_mean
from compress.models.candidate import can_encode

if TYPE_CHECKING:
    from compress.measure.subject import Subject

PICTURES = 32
LEAST_ALIKE = 0.99  # no pass changes an encoder; rounding turns a token whose two nearest codes are equally near


@dataclass(frozen=True)
class Encoding(Measure):
    """Tokens of pictures that the reference decoded from held-out tokens; intervals are a bootstrap over pictures."""

    name = "encoding"
    version = 2
    stage = "graphs"
    promises = ("encoder_agreement",)
    title = "Image encoder"
    caption = "Tokens that both encoders make of the same pictures"

    pictures: int = setting(doc="pictures that were encoded", low=2)
    agreement: float = quantity(
        doc="share of tokens that are the reference's",
        unit="percent",
        better="higher",
        column="same tokens %",
        gate=Limit("encoder_agreement", "least share of tokens that both image encoders make alike", high=1),
    )
    agreement_ci95: tuple[float, float] = setting(doc="its interval")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Where both have an encoder."""
        return can_encode(subject.candidate.model) and can_encode(subject.reference.model)

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """Both models and the pictures."""
        return *subject.keys, *subject.given.scored

    @classmethod
    def run(cls, subject: Subject) -> Encoding:
        """Encode with both."""
        given, reference = subject.given, subject.reference.model
        images = reference.decode_images(given.examples.targets[:PICTURES])
        alike = subject.candidate.model.encode_images(images) == reference.encode_images(images)
        mean = bootstrap_mean(alike.mean(axis=1), given.seed)
        return cls(len(images), mean.value, mean.ci95)

    def broken(self) -> Iterator[Broken]:
        """It makes the reference's tokens."""
        if self.agreement < LEAST_ALIKE:
            text = f"its image encoder makes {100 * self.agreement:.3g} % of the reference's tokens, but must make all"
            yield Broken("encoder_agreement", self.agreement, LEAST_ALIKE, text)
