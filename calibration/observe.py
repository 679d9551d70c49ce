"""What activations look like: a histogram of magnitudes, of bounded memory, for every observed input.

The histogram covers 0 to a power of two; when a larger value comes, pairs of bins merge until it fits, so counts stay
exact whatever the order of the data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 4096  # even, so that pairs can merge
LEAST_TOP = 2.0**-100  # a histogram of smaller values would divide by numbers that float32 does not have


class Magnitudes:
    """Histogram of |x| over all values seen, and the largest of them."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.top = 0.0  # upper edge of the last bin: 0 (nothing but zeros yet) or a power of two
        self.largest = 0.0

    def add(self, x: Tensor) -> None:
        """Count the values of a tensor of any shape.

        Raises:
            ValueError: it holds NaN or Inf.
        """
        magnitudes = x.detach().abs().flatten().float()
        largest = magnitudes.max().item() if len(magnitudes) else 0.0
        if not math.isfinite(largest):
            raise ValueError("activations hold NaN or Inf")
        self.largest = max(self.largest, largest)
        self.widen(largest)
        if self.top == 0:
            self.counts[0] += len(magnitudes)
            return
        bins = (magnitudes * (BINS / self.top)).to(torch.int64).clamp_(max=BINS - 1)
        self.counts += bins.bincount(minlength=BINS)

    def widen(self, largest: float) -> None:
        """Make the histogram reach this value."""
        if self.top == 0 and largest > 0:
            self.top = max(LEAST_TOP, 2.0 ** math.ceil(math.log2(largest)))
        while self.top < largest:
            merged = self.counts.view(-1, 2).sum(dim=1)
            self.counts = torch.cat([merged, torch.zeros(BINS // 2, dtype=torch.int64)])
            self.top *= 2

    @property
    def centres(self) -> Tensor:
        """The middle of each bin (BINS,)."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.top / BINS)

    def percentile(self, share: float) -> float:
        """The value that this share (0 to 1) of the magnitudes does not exceed, to a bin's width; 1 is the largest."""
        total = int(self.counts.sum())
        needed = min(total, math.ceil(round(share * total, 6)))  # 0.999 * 1000 is 999, not a little more
        bin_index = int((self.counts.cumsum(0) >= needed).nonzero()[0])
        return min(self.largest, (bin_index + 1) * self.top / BINS)
