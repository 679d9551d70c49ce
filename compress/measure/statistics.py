"""95 % intervals: of means over pictures, of medians of paired ratios, of shares and of differences of shares.

Letters: N pictures, C columns (quantities measured on the same pictures), R resamples, K looks.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
RESAMPLES = 2000  # the ends of the interval then vary by 1.5 % of its width from seed to seed (297 pictures)
CHUNK_VALUES = 4_000_000  # resampled values alive at once: 32 MB
LEAST_PICTURES = 1.5  # of a look, as many as an even one of that spread: fewer say nothing of their own spread
FEWEST_VALUES = 6  # with 5 values even the whole range covers the median with only 1 - 2 / 2^5 = 93.75 %


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def ci95(self) -> tuple[float, float]:
        """The interval, as reports hold it."""
        return self.low, self.high

    def times(self, factor: float) -> Estimate:
        """In another unit, by a positive factor."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)


def resampled_means(values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Column means (R, C) of `values` (N, C) over pictures drawn with replacement.

    Tokens of one picture depend on each other, so pictures are drawn and not tokens (a cluster bootstrap); all columns
    see the same draw, so that differences and ratios of columns stay paired. Same seed, same draws.

    Raises:
        ValueError: fewer than 2 pictures.
    """
    count, columns = values.shape
    if count < 2:
        raise ValueError(f"an interval over pictures needs at least 2 of them; there are {count}")
    generator = np.random.Generator(np.random.Philox(seed))
    chunk = max(1, CHUNK_VALUES // (count * columns))
    means = [
        values[generator.integers(0, count, size=(min(chunk, resamples - start), count))].mean(axis=1)
        for start in range(0, resamples, chunk)
    ]
    return np.concatenate(means)


def tail_of(count: int) -> float:
    """The share of bootstrap draws that lies outside of an interval on each side, for `count` pictures; 2 or more.

    The middle 95 % of the draws are too narrow for few pictures: their spread has the divisor N instead of N - 1, and
    they know nothing of Student's t. The expanded percentile interval takes both from the tails (Hesterberg, What
    Teachers Should Know about the Bootstrap, 2015, arXiv 1411.5279): 0.9 % for 10 pictures, 2.4 % for 300.
    """
    return float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, TAIL)))


def percentile_interval(value: float, draws: NDArray[np.float64], count: int) -> Estimate:
    """A statistic of `count` pictures and its expanded percentile interval from bootstrap draws (R,)."""
    tail = tail_of(count)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(float(value), float(low), float(high))


def bootstrap_mean(values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean of one value per picture (N,), with its bootstrap interval over pictures."""
    return percentile_interval(values.mean(), resampled_means(values[:, None], seed, resamples)[:, 0], len(values))


def pictures_needed(estimate: Estimate, pictures: int, half_width: float) -> int:
    """About how many pictures an interval needs to be no wider than that to each side.

    The width of a bootstrap interval of a mean falls with the square root of the number of pictures.
    """
    now = (estimate.high - estimate.low) / 2
    return max(2, math.ceil(pictures * (now / half_width) ** 2))


def largest(parts: NDArray[np.float64], sizes: NDArray[np.float64]) -> tuple[int, Estimate] | None:
    """The largest of K ratios, each a sum of `parts` (N, K) over a sum of `sizes` (N, K), and which; none below 0.

    A look is a class, a place or a token; the size of a picture in it is 0 where the picture has no part in it. The
    interval is [largest of the lower ends, largest of the upper ends] of intervals corrected for K looks (Bonferroni),
    so that having picked the largest does not flatter; skewed looks may leave their own. A ratio's standard error is
    that of its linearisation, with Kish's effective number of pictures, sum(sizes)^2 / sum(sizes^2), for N. Looks of
    few pictures know little of their spread: each is taken to spread, relative to its ratio, at least as the median
    look does, and Student's t has the degrees of freedom of all looks together.

    None where no look has pictures enough to know a spread.
    """
    total, squares = sizes.sum(axis=0), (sizes * sizes).sum(axis=0)
    ratios = parts.sum(axis=0) / total
    count = total * total / squares  # (K,), effective pictures
    known = count >= LEAST_PICTURES
    if not known.any():
        return None
    left = np.square(parts - ratios * sizes).sum(axis=0)  # of the linearisation
    spread = np.sqrt(left[known] / squares[known] * count[known] / (count[known] - 1))  # of one even picture
    own, positive = np.zeros(len(ratios)), ratios[known] > 0
    own[known] = spread
    shared = float(np.median(spread[positive] / ratios[known][positive])) if positive.any() else 0.0
    error = np.maximum(own, shared * ratios) / np.sqrt(count)
    reach = stdtrit((count[known] - 1).sum(), 1 - TAIL / len(ratios)) * error
    place = int(ratios.argmax())
    low, high = max(float((ratios - reach).max()), 0.0), float((ratios + reach).max())
    return place, Estimate(float(ratios[place]), low, high)


def median(values: NDArray[np.float64]) -> Estimate:
    """The median of independent values (N,) with its exact interval between two order statistics.

    The k-th smallest and k-th largest values enclose the median with probability 1 - 2 P(Binomial(N, 1/2) < k) whatever
    the distribution (Conover, Practical Nonparametric Statistics, 3.2); k is the largest that keeps 95 %.

    Raises:
        ValueError: fewer than 6 values, for which no such interval exists.
    """
    count = len(values)
    if count < FEWEST_VALUES:
        raise ValueError(f"a 95 % interval of a median needs at least {FEWEST_VALUES} values; there are {count}")
    ordered = np.sort(values)
    rank, below, limit = 0, 1, TAIL * 2**count  # `below` is 2^N P(Binomial < rank + 1), in whole numbers: exact
    while below <= limit:
        rank += 1
        below += math.comb(count, rank)
    return Estimate(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[count - rank]))


def share(successes: int, trials: int) -> Estimate:
    """A share of independent trials with Wilson's score interval (Wilson 1927), which is sound at 0 and 1 too.

    Raises:
        ValueError: no trial, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials are no share")
    z = statistics.NormalDist().inv_cdf(1 - TAIL)
    value = successes / trials
    scale = 1 + z * z / trials
    centre = (value + z * z / (2 * trials)) / scale
    half = z * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials * trials)) / scale
    # At 0 and 1 the end of the interval is the share itself, which rounding would miss.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Estimate(value, low, high)


def share_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Estimate:
    """Share of `first` less share of `second`, two outcomes (N,) of the same pictures, with its interval.

    Newcombe's square-and-add interval for paired data (Statistics in Medicine 17, 2635, 1998, method 10): unlike a
    bootstrap it does not shrink to a point where both are right everywhere.

    Raises:
        ValueError: the outcomes are not of equally many pictures.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} outcomes are not of the same pictures")
    count = len(first)
    one, two = share(int(first.sum()), count), share(int(second.sum()), count)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    cross = float(both * neither - only_first * only_second)
    if cross > 0:
        cross = max(cross - count / 2, 0.0)  # Newcombe's continuity correction
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    correlation = cross / math.sqrt(margins) if margins else 0.0

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * correlation * a * b + b * b, 0.0))

    value = one.value - two.value
    low = value - distance(one.value - one.low, two.high - two.value)
    high = value + distance(one.high - one.value, two.value - two.low)
    return Estimate(value, low, high)
