"""The settings of sampling that a user changes from one drawing to the next; both command lines offer all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from .words import CHOICES, ChoiceFall, Guidance, Reveal, Schedule


class Sampling(TypedDict, total=False):
    """Settings of `Sampler` for one drawing; what is None or left out is the model's own."""

    cfg_scale: float | None
    guidance: Guidance | None
    guidance_power: float | None
    guidance_start: int | None
    guidance_stop: int | None
    temperature: float | None
    end_temperature: float | None
    top_k: int | None
    top_p: float | None
    steps: int | None
    schedule: Schedule | None
    reveal: Reveal | None
    choice_temperature: float | None
    choice_fall: ChoiceFall | None


FORMATS = ("png", "jpeg", "webp")  # of pictures in files of their own


@dataclass(frozen=True)
class Option:
    """One of them as an option of a command: a whole number, any number or one of some words, its range, and help."""

    name: str
    help: str
    whole: bool = False
    low: int = 0
    high: int | None = None

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")

    @property
    def words(self) -> tuple[str, ...]:
        """The words that there are, where it is no number."""
        return CHOICES.get(self.name, ())


OPTIONS = (
    Option("cfg_scale", "guidance; 1 is none"),
    Option("guidance", "how it grows from 1 over the steps"),
    Option("guidance_power", "of guidance power-cosine"),
    Option("guidance_start", "the first step with guidance", whole=True),
    Option("guidance_stop", "the first step without it again", whole=True, low=1),
    Option("temperature", "0 always takes the likeliest"),
    Option("end_temperature", "of the last step; the inverse goes linearly"),
    Option("top_k", "keep the k likeliest; 0 keeps all", whole=True),
    Option("top_p", "keep this much probability", high=1),
    Option("steps", "steps of a masked model", whole=True, low=1),
    Option("schedule", "what share a masked model still masks after each step"),
    Option("reveal", "which positions a masked model reveals first"),
    Option("choice_temperature", "noise in which tokens of a masked model are surest"),
    Option("choice_fall", "whether that noise falls before or after the first step"),
)
