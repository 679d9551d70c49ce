"""Axes: from numbers to places on a plot, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A scale of numbers from `low` to `high`, onto places from `start` to `end` (which may run backwards)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    held: tuple[float, float]  # the lowest and the highest value that it was made for
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a number; what lies outside is put at the edge."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def cut(self) -> Axis:
        """The axis without what lies beyond the values that it was made for."""
        low, high = self.held
        inside = tuple(tick for tick in self.ticks if low <= tick <= high)
        return replace(self, low=low, high=high, ticks=inside) if len(inside) > 1 else self

    def text(self, tick: float) -> str:
        """A tick in figures, with as many decimals as the ticks differ by."""
        far = max(abs(each) for each in self.ticks)
        if self.log or far >= 1e5 or far < 1e-3:
            return f"{tick:.3g}"
        step = self.ticks[1] - self.ticks[0]
        decimals = next(n for n in range(12) if math.isclose(step * 10**n, round(step * 10**n), rel_tol=1e-6))
        return f"{tick:.{decimals}f}" if abs(tick) > 1e-9 * far else "0"


def linear(values: Iterable[float], start: float, end: float, *, zero: bool = True, most_ticks: int = 6) -> Axis:
    """A linear axis that holds all the values and ends at round numbers; it holds 0 as well, unless told otherwise."""
    held = [*values, *([0.0] if zero else [])] or [0.0]
    low, high = min(held), max(held)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = (low, low + 1.0) if low >= 0 else (low - 1.0, low)
    step = round_step((high - low) / (most_ticks - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(step * i for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks, (low, high))


def round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * each for each in ROUND if power * each >= least * (1 - 1e-9))


def logarithmic(values: Iterable[float], start: float, end: float, *, most_ticks: int = 7) -> Axis:
    """A logarithmic axis over positive values, with ticks at 1, 2 and 5 times powers of ten, or at powers alone."""
    held = [value for value in values if value > 0] or [1.0]
    low, high = min(held), max(held) * 1.001  # the last tick lies behind the highest value, so the axis has a length
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        below = [tick for tick in ticks if tick <= low]
        above = [tick for tick in ticks if tick >= high]
        shown = [below[-1], *(tick for tick in ticks if low < tick < high), above[0]] if below and above else ticks
        if len(shown) <= most_ticks:
            break
    shown = shown[:: math.ceil(len(shown) / most_ticks)] + shown[-1:] if len(shown) > most_ticks else shown
    return Axis(shown[0], shown[-1], start, end, tuple(dict.fromkeys(shown)), (low, high), log=True)
