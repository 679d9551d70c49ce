"""Scales from ranges: the value that the largest code stands for, by absmax, percentile or least squared error.

Letters: N outputs, K inputs, G groups of inputs that share a scale.

A number format is given by its largest code and by a function that rounds scaled values to codes (saturating); it
returns numbers of its own, never a view of those it was given. Of weights with zero points it is whole numbers from one
code to another, and a range reaches from the least weight to the largest, 0 always among them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from calibration.observe import Magnitudes

Method = Literal["absmax", "percentile", "mse"]
Rounded = Callable[[Tensor], Tensor]

# Clips tried by `mse`, as shares of the absmax. Below 0.3 even 4-bit Gaussian or Laplace data loses by clipping; with
# two bits, whose symmetric codes end at 1, below 0.1.
CLIPS = torch.linspace(1.0, 0.3, 71)
TWO_BIT_CLIPS = torch.linspace(1.0, 0.1, 91)
CLIP_STEP = 0.02  # above the absmax, where neighbours whose codes are limited together may need a coarser scale
# Weights of the rows that are looked at together: half a megabyte of float32, which stays in a processor's cache while
# all clips are tried, and bounds the memory of the search. One thread is enough for so few: two would wait for each
# other at every operation (15 million weights a second on an AMD EPYC; whole layers on 2 threads: below 1).
TOGETHER = 2**17
# Of a group that is all zeros: any positive number does, and engines refuse 0. Likewise of one whose scale would be
# below the smallest normal float32, which engines may flush to 0.
EMPTY_SCALE = 1.0
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def weight_scales(
    weight: Tensor,
    group: int,
    largest: float,
    rounded: Rounded,
    method: Method,
    percentile: float,
    pair_limit: float | None = None,
) -> Tensor:
    """Scales (N, G) of weights (N, K), one for each row (group 0) or for each `group` inputs of a row.

    Where `pair_limit` is given, `rounded` keeps the sum of two neighbouring codes (2j, 2j + 1) within it, and scales
    leave room for the sums as they do for single weights.
    """
    parts = weight.split(rows_together(weight.shape[1]))
    with one_thread():
        scales = [scales_of_rows(part, group, largest, rounded, method, percentile, pair_limit) for part in parts]
        return torch.cat(scales)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's operations on one thread: for many operations on few numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rows_together(inputs: int) -> int:
    """Rows of so many weights that are handled at once."""
    return max(1, TOGETHER // inputs)


def scales_of_rows(
    weight: Tensor,
    group: int,
    largest: float,
    rounded: Rounded,
    method: Method,
    percentile: float,
    pair_limit: float | None,
) -> Tensor:
    """Scales (N, G) of a few rows."""
    grouped = in_groups(weight, group)  # (N, G, group)
    absmax = grouped.abs().amax(dim=-1)
    if method == "mse":
        top = least_error(grouped, absmax, largest, rounded, clips(largest, pair_limit))
    else:
        top = reach(grouped, method, percentile, weight.shape[1], group)
        if pair_limit is not None:
            sums = functional.pad(grouped, (0, grouped.shape[-1] % 2)).unflatten(-1, (-1, 2)).sum(dim=-1)
            pairs = reach(sums, method, percentile, -(-weight.shape[1] // 2), -(-group // 2))
            top = torch.maximum(top, pairs * (largest / pair_limit))
    top = torch.where(top > 0, top, absmax)  # a percentile of sparse weights may be 0
    return torch.where(top / largest >= SMALLEST_SCALE, top / largest, EMPTY_SCALE)


def weight_grid(
    weight: Tensor, group: int, codes: tuple[float, float], method: Method, percentile: float
) -> tuple[Tensor, Tensor]:
    """Scales and zero points (N, G) of weights (N, K) whose codes are the whole numbers from `codes[0]` to `codes[1]`.

    A weight is (code - zero point) * scale. Of the clips that `mse` tries, each keeps a share of the whole range.
    """
    with one_thread():
        parts = [
            grid_of_rows(part, group, codes, method, percentile)
            for part in weight.split(rows_together(weight.shape[1]))
        ]
    scales, zeros = zip(*parts, strict=True)
    return torch.cat(scales), torch.cat(zeros)


def grid_of_rows(
    weight: Tensor, group: int, codes: tuple[float, float], method: Method, percentile: float
) -> tuple[Tensor, Tensor]:
    """Scales and zero points (N, G) of a few rows."""
    grouped, (lowest, highest) = in_groups(weight, group), codes  # (N, G, group)
    bottom, top = (
        side * reach((side * grouped).clamp(min=0), method, percentile, weight.shape[1], group) for side in (-1, 1)
    )
    best: tuple[Tensor, Tensor] | None = None
    for share in CLIPS.tolist() if method == "mse" else [1.0]:
        scale = (top - bottom) * (share / (highest - lowest))
        scale = torch.where(scale >= SMALLEST_SCALE, scale, EMPTY_SCALE)
        zero = (lowest - bottom * share / scale).round().clamp_(lowest, highest)
        made = ((grouped / scale[..., None]).round_() + zero[..., None]).clamp_(lowest, highest)
        error = (made.sub_(zero[..., None]).mul_(scale[..., None]).sub_(grouped)).square_().sum(dim=-1)
        if best is None:
            best, least = (scale, zero), error
        else:
            best = torch.where(error < least, scale, best[0]), torch.where(error < least, zero, best[1])
            least = torch.minimum(error, least)
    assert best is not None
    return best


def reach(grouped: Tensor, method: Method, percentile: float, inputs: int, group: int) -> Tensor:
    """The largest magnitude (N, G) of each group, or the percentile of its magnitudes."""
    if method == "percentile":
        return torch.stack([within_percentile(row, percentile, inputs, group) for row in grouped.abs()])
    return grouped.abs().amax(dim=-1)


def clips(largest: float, pair_limit: float | None) -> Tensor:
    """The clips that `mse` tries; with a limit for pairs, up to the one at which no pair is beyond it."""
    if pair_limit is None:
        return TWO_BIT_CLIPS if largest == 1 else CLIPS
    return torch.cat([torch.arange(2 * largest / pair_limit, 1, -CLIP_STEP), CLIPS])


def in_groups(weight: Tensor, group: int) -> Tensor:
    """Weights (N, K) as (N, G, group), the last group filled with zeros."""
    if not group:
        return weight[:, None]
    groups: Tensor = functional.pad(weight, (0, -weight.shape[1] % group)).unflatten(1, (-1, group))
    return groups


def within_percentile(magnitudes: Tensor, percentile: float, inputs: int, group: int) -> Tensor:
    """The percentile of each group (G, group) of one row, without the zeros that fill the last group."""
    short = inputs % group if group else 0
    tops = torch.quantile(magnitudes, percentile / 100, dim=1)
    if short:
        tops[-1] = torch.quantile(magnitudes[-1, :short], percentile / 100)
    return tops


def least_error(grouped: Tensor, absmax: Tensor, largest: float, rounded: Rounded, shares: Tensor = CLIPS) -> Tensor:
    """The clip (N, G), a share of the absmax, that rounds with the least squared error; the first of equals."""
    best, least = absmax, torch.full_like(absmax, torch.inf)
    for share in shares.tolist():
        scale = torch.where(absmax > 0, absmax * share / largest, EMPTY_SCALE)[..., None]
        error = rounded(grouped / scale).mul_(scale).sub_(grouped).square_().sum(dim=-1)
        best = torch.where(error < least, absmax * share, best)
        least = torch.minimum(error, least)
    return best


def activation_scale(seen: Magnitudes, largest: float, rounded: Rounded, method: Method, percentile: float) -> float:
    """One scale for all observed activations."""
    if seen.largest / largest < SMALLEST_SCALE:
        return EMPTY_SCALE
    if method == "percentile":
        top = seen.percentile(percentile / 100)
    elif method == "mse":
        counts, centres = seen.counts.double(), seen.centres
        scales = seen.largest * CLIPS.double() / largest
        errors = [float((counts * (rounded(centres / scale) * scale - centres).square()).sum()) for scale in scales]
        top = float(scales[int(torch.tensor(errors).argmin())]) * largest
    else:
        top = seen.largest
    return top / largest
