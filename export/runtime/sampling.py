"""How a model draws unless told otherwise: guidance, temperature, top-k, top-p, and the schedules of masked models.

Letters: T tokens of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuts import CUTS
from .errors import shown
from .words import CHOICES, ChoiceFall, Guidance, Reveal, Schedule

HALTON_POINTS = 10_000
HIGHEST = 1e6  # of scales, temperatures and powers: beyond it float32 keeps nothing of the logits but their overflow
COLDEST = 1e-20  # lower temperatures are 0: float32 cannot divide logits by them, and noise has long lost its say
MOST_TOKENS = 2**31 - 1  # that top-k keeps
MOST_STEPS = 2**16

GUIDANCE = (
    "cfg_scale",
    "guidance",
    "guidance_power",
    "guidance_start",
    "guidance_stop",
)  # settings that say how logits are guided


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn from logits.

    `cfg_scale` 1 is no guidance; it is held constant, or grows from 1 to its value over the steps: linearly (with
    ``ramp`` it would reach it one step later), or as (1 - cos(pi x^guidance_power)) / 2. Guidance is applied from step
    `guidance_start` up to, but not at, `guidance_stop`: a limited interval (arXiv 2404.07724). `temperature` 0, or
    below `COLDEST`, takes the likeliest token; `end_temperature` is that of the last step, the inverse in between
    linear. `top_k` 0 and `top_p` 1 keep all tokens.

    `guidance_inside` says that the model learned this guidance: its logits of a class are the guided ones already, so
    each picture is one row, and no other guidance can be asked of it.

    Masked models take `steps`; `schedule` says what share is still masked after each. `reveal` chooses which positions
    are: ``halton`` spreads them over the picture by a fixed sequence, ``confidence`` keeps those drawn with the highest
    probability, perturbed by Gumbel noise times `choice_temperature`; ``logit`` those of the highest logit, where the
    tokens are drawn at that temperature too; ``random`` takes any, as absorbing diffusion does (arXiv 2107.03006),
    another order for each picture. The temperature falls to 0 as steps are done: at the first step it has fallen by one
    (`choice_fall` ``after``), or is still whole (``before``).
    """

    cfg_scale: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: Guidance = "constant"
    guidance_power: float = 1.0
    guidance_start: int = 0
    guidance_stop: int | None = None
    end_temperature: float | None = None
    steps: int = 12
    schedule: Schedule = "cosine"
    reveal: Reveal = "confidence"
    choice_temperature: float = 1.0
    choice_fall: ChoiceFall = "after"
    guidance_inside: bool = False

    def __post_init__(self) -> None:
        for name in ("cfg_scale", "temperature", "guidance_power", "choice_temperature"):
            check_number(name, getattr(self, name), 0, HIGHEST)
        check_number("top_p", self.top_p, 0, 1, above=True)
        check_whole("top_k", self.top_k, 0, MOST_TOKENS)
        check_whole("steps", self.steps, 1, MOST_STEPS)
        check_whole("guidance_start", self.guidance_start, 0, MOST_TOKENS)
        if self.guidance_stop is not None:
            check_whole("guidance_stop", self.guidance_stop, 1, MOST_TOKENS)
            if self.guidance_stop <= self.guidance_start:
                said = f"must be above guidance_start {self.guidance_start}; cfg_scale 1 is no guidance"
                raise ValueError(f"guidance_stop {self.guidance_stop}: {said}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {shown(getattr(self, name))}: must be one of {', '.join(known)}")
        if not isinstance(self.guidance_inside, bool):
            raise ValueError(f"guidance_inside {shown(self.guidance_inside)}: must be true or false")
        if self.guidance_inside and self.cfg_scale == 1:
            raise ValueError("guidance_inside with cfg_scale 1: that is no guidance; say which scale is inside")
        if self.end_temperature is not None:
            check_number("end_temperature", self.end_temperature, 0, HIGHEST)
            if not (self.end_temperature >= COLDEST and self.temperature >= COLDEST):
                raise ValueError(f"temperature {self.temperature} to {self.end_temperature}: both must be above 0")

    def changed(self, **given: Any) -> Sampler:
        """The same sampler with what is given and not None.

        Raises:
            ValueError: a setting is out of range, or asks for another guidance than is inside the model.
        """
        given = {name: value for name, value in given.items() if value is not None}
        self.check_guidance(given)
        return self.admitted(replace(self, **given))

    def admitted(self, wanted: Sampler | None) -> Sampler:
        """What a model with this sampler draws by when another is wanted: that one, as far as guidance is open.

        Raises:
            ValueError: another guidance is wanted than is inside the model, or one that is inside where none is.
        """
        if wanted is None:
            return self
        if not self.guidance_inside:
            if wanted.guidance_inside:
                raise ValueError("guidance_inside: no guidance is inside this model; it is drawn with two rows")
            return wanted
        self.check_guidance({name: getattr(wanted, name) for name in GUIDANCE})
        return replace(wanted, guidance_inside=True)

    def check_guidance(self, given: Mapping[str, Any]) -> None:
        """Refuse settings of another guidance than is inside.

        Raises:
            ValueError: says which.
        """
        if not self.guidance_inside:
            return
        for name in GUIDANCE:
            if given.get(name, getattr(self, name)) != getattr(self, name):
                raise ValueError(
                    f"{name} {shown(given[name])}: {name} {getattr(self, name)} is inside this model, which draws with "
                    "no other; leave it out"
                )

    def with_guidance_inside(self) -> Sampler:
        """The sampler of a model that learned this guidance.

        Raises:
            ValueError: the sampler has no guidance.
        """
        return replace(self, guidance_inside=True)

    def with_guidance_outside(self) -> Sampler:
        """The sampler that applies the same guidance to two rows."""
        return replace(self, guidance_inside=False)

    def serves(self, wanted: Sampler) -> bool:
        """Whether a graph that samples as this one can sample as another: it reveals alike and cuts by nothing else."""
        return wanted.reveal == self.reveal and wanted.cuts.keys() <= self.cuts.keys()

    @property
    def cuts(self) -> dict[str, float]:
        """The limits on what can be drawn that keep less than all, by their names."""
        settings = {cut.name: getattr(self, cut.name) for cut in CUTS}
        return {cut.name: settings[cut.name] for cut in CUTS if settings[cut.name] != cut.off}

    @property
    def guided(self) -> bool:
        """Whether each picture needs a second row for the null class."""
        return self.cfg_scale != 1.0 and not self.guidance_inside

    @property
    def spares_rows(self) -> bool:
        """Whether some steps may not need that row."""
        return self.guided and (self.guidance_start > 0 or self.guidance_stop is not None)

    def scale_at(self, step: int, steps: int) -> float:
        """The guidance that is applied to the logits of a step (from 0) of so many; 1 where it is inside them."""
        return 1.0 if self.guidance_inside else self.guidance_at(step, steps)

    def guidance_at(self, step: int, steps: int) -> float:
        """The guidance of a step (from 0) of so many, inside or not."""
        if step < self.guidance_start or (self.guidance_stop is not None and step >= self.guidance_stop):
            return 1.0
        if self.guidance == "constant":
            return self.cfg_scale
        if self.guidance == "linear":
            grown = step / max(steps - 1, 1)
        elif self.guidance == "ramp":
            grown = step / steps
        else:
            grown = (1 - math.cos(math.pi * (step / steps) ** self.guidance_power)) / 2
        return 1 + (self.cfg_scale - 1) * grown

    def temperature_at(self, step: int, steps: int) -> float:
        """The temperature of a step (from 0) of so many."""
        if self.end_temperature is None:
            return warm(self.temperature)
        done = step / max(steps - 1, 1)
        return 1 / ((1 - done) / self.temperature + done / self.end_temperature)

    def choice_at(self, step: int, steps: int) -> float:
        """The temperature of the choice of positions at a step (from 0) of so many."""
        fallen = (step + 1) / steps if self.choice_fall == "after" else step / max(steps - 1, 1)
        return warm(self.choice_temperature * (1 - fallen))


def warm(temperature: float) -> float:
    """A temperature, or 0 where float32 cannot divide by it."""
    return temperature if temperature >= COLDEST else 0.0


def check_number(name: str, value: Any, low: float, high: float, *, above: bool = False) -> None:
    """Refuse what is no number from `low`, or above it, to `high`.

    Raises:
        ValueError: says which value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)) or value != value:
        raise ValueError(f"{name} {shown(value)}: must be a number")
    if above and not low < value <= high:
        raise ValueError(f"{name} {shown(value)}: must be above {low:g} and at most {high:g}")
    if not low <= value <= high:
        raise ValueError(
            f"{name} {shown(value)}: must be " + (f"at least {low:g}" if value < low else f"at most {high:g}")
        )


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuse what is no whole number from `low` to `high`.

    Raises:
        ValueError: says which value.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} {shown(value)}: must be a whole number")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} {shown(value)}: must be " + (f"at least {low}" if value < low else f"at most {high}"))


def masked_share(schedule: Schedule, done: float) -> float:
    """The share of positions that is masked after this share of the steps (MaskGIT, arXiv 2202.04200)."""
    if schedule == "cosine":
        return math.cos(done * math.pi / 2)
    if schedule == "arccos":
        return math.acos(done) * 2 / math.pi
    return 1 - done if schedule == "linear" else 1 - done * done


def steps_in_order(sampler: Sampler, count: int) -> Iterator[tuple[int, int]]:
    """Steps that reveal something of so many positions in a fixed order, and how many are revealed after each."""
    steps, done = sampler.steps, 0
    for step in range(steps):
        revealed = int((1 - masked_share(sampler.schedule, (step + 1) / steps)) * count)
        revealed = count if step + 1 == steps else min(max(step + 1, revealed), count)
        if revealed > done:
            yield step, revealed
            done = revealed


def steps_surest(sampler: Sampler, count: int) -> Iterator[tuple[int, int]]:
    """Steps that draw something at so many positions, and how many are masked again after each."""
    steps, left = sampler.steps, count
    for step in range(steps):
        if not left:
            return
        masked = 0 if step + 1 == steps else int(masked_share(sampler.schedule, (step + 1) / steps) * count)
        left = min(max(masked, 1), left - 1) if step + 1 < steps and left > 1 else 0
        yield step, left


def halton_order(grid: tuple[int, int]) -> NDArray[np.int64]:
    """Every position of a grid once, (T,), spread evenly however many are taken: the Halton sequence of bases 2 and 3.

    Besnier et al. 2025 (arXiv 2503.17076): rows by base 2, columns by base 3, cells taken when they are first met.
    Cells that the first points miss follow in raster order.
    """
    points = np.arange(1, HALTON_POINTS + 1)
    rows, columns = (
        np.floor(radical_inverse(points, base) * side).astype(np.int64) for base, side in zip((2, 3), grid, strict=True)
    )
    cells = rows * grid[1] + columns
    _, first = np.unique(cells, return_index=True)
    met = cells[np.sort(first)]
    return np.concatenate([met, np.setdiff1d(np.arange(grid[0] * grid[1]), met)])


def radical_inverse(numbers: NDArray[np.int64], base: int) -> NDArray[np.float64]:
    """The digits of whole numbers in a base, mirrored at the point: one coordinate of the Halton sequence."""
    result, weight, rest = np.zeros(len(numbers)), 1.0 / base, numbers.copy()
    while rest.any():
        result += weight * (rest % base)
        rest //= base
        weight /= base
    return result
