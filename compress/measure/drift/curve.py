"""Mean KL along what a picture is drawn by: position by position, scale by scale, or by the share that is masked.

Letters: N pictures, T tokens of a picture, C points of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import setting
from compress.measure.statistics import bootstrap_mean, percentile_interval, resampled_means
from export.runtime.shape import Shape

MOST_POINTS = 64  # positions are put together above that
MOST_SHARES = 8  # of masked positions: a point needs pictures enough for an interval
FEWEST_PICTURES = 4  # of such a point


@dataclass(frozen=True)
class Curve:
    """Where along a picture the drift is; intervals are a 95 % bootstrap over pictures."""

    axis: Literal["position", "scale", "share masked"] = setting(doc="what `at` counts")
    at: tuple[float, ...] = setting(doc="the middle of each point: a position, a scale, or a share of masked positions")
    kl: tuple[float, ...] = setting(doc="mean KL(reference || candidate) there, nats per token")
    kl_low: tuple[float, ...] = setting(doc="lower end of its interval")
    kl_high: tuple[float, ...] = setting(doc="upper end of its interval")


def curve(kl: NDArray[np.float64], scored: NDArray[np.bool_], shape: Shape | None, seed: int = 0) -> Curve:
    """The curve of KL (N, T) of the tokens that were scored (N, T); without a shape along the positions."""
    if shape is not None and shape.drawing.masks:
        return by_share(kl, scored, seed)
    scaled = shape is not None and shape.drawing.scaled
    if shape is not None and scaled:
        counts = [side * side for side in shape.scales]
        groups, middles = np.repeat(np.arange(len(counts)), counts), [float(index) for index in range(len(counts))]
    else:
        length = kl.shape[1]
        points = min(length, MOST_POINTS)
        groups = np.arange(length) * points // length
        middles = [float(np.flatnonzero(groups == point).mean()) for point in range(points)]
    columns = np.stack([kl[:, groups == point].mean(axis=1) for point in range(len(middles))], axis=1)  # (N, C)
    draws, count = resampled_means(columns, seed), len(columns)
    found = [percentile_interval(columns[:, point].mean(), draws[:, point], count) for point in range(len(middles))]
    return Curve(
        "scale" if scaled else "position",
        tuple(middles),
        tuple(each.value for each in found),
        tuple(each.low for each in found),
        tuple(each.high for each in found),
    )


def by_share(kl: NDArray[np.float64], scored: NDArray[np.bool_], seed: int) -> Curve:
    """Pictures in groups of the share of their positions that is masked; each picture counts the same."""
    shares = scored.mean(axis=1)
    means = (kl * scored).sum(axis=1) / scored.sum(axis=1)
    count = max(1, min(MOST_SHARES, len(kl) // FEWEST_PICTURES))
    at, values = [], []
    for rows in np.array_split(np.argsort(shares, kind="stable"), count):
        at.append(float(shares[rows].mean()))
        values.append(bootstrap_mean(means[rows], seed))
    return Curve(
        "share masked",
        tuple(at),
        tuple(each.value for each in values),
        tuple(each.low for each in values),
        tuple(each.high for each in values),
    )
