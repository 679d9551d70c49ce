"""The words that settings of sampling take; apart from what they do, for command lines that only list them."""

from __future__ import annotations

from typing import Literal, get_args

Schedule = Literal["cosine", "arccos", "linear", "square"]
Guidance = Literal["constant", "linear", "ramp", "power-cosine"]
Reveal = Literal["halton", "confidence", "logit", "random"]
ChoiceFall = Literal["after", "before"]
CHOICES: dict[str, tuple[str, ...]] = {
    "guidance": get_args(Guidance),
    "schedule": get_args(Schedule),
    "reveal": get_args(Reveal),
    "choice_fall": get_args(ChoiceFall),
}
