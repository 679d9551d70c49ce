"""The settings of sampling that a user changes from one drawing to the next; both command lines offer all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class Sampling(TypedDict, total=False):
    """Settings of `Sampler` for one drawing; what is None or left out is the model's own."""

    cfg_scale: float | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    steps: int | None


FORMATS = ("png", "jpeg", "webp")  # of pictures in files of their own


@dataclass(frozen=True)
class Option:
    """One of them as an option of a command: a whole number or not, its range, and one line of help."""

    name: str
    whole: bool
    low: int
    high: int | None
    help: str

    @property
    def flag(self) -> str:
        """As it is typed."""
        return "--" + self.name.replace("_", "-")


OPTIONS = (
    Option("steps", whole=True, low=1, high=None, help="steps of a masked model"),
    Option("cfg_scale", whole=False, low=0, high=None, help="guidance; 1 is none"),
    Option("temperature", whole=False, low=0, high=None, help="0 always takes the likeliest"),
    Option("top_k", whole=True, low=0, high=None, help="keep the k likeliest; 0 keeps all"),
    Option("top_p", whole=False, low=0, high=1, help="keep this much probability"),
)
