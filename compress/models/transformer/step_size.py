"""Step sizes of rounding that are trained (LSQ, arXiv 1902.08153), and the estimator that lets gradients through.

Letters: N outputs, G groups of inputs that share a weight scale.

The gradient of a rounded number q(x / s) s by its step s is q - x / s where x is in range, and the code at the range's
end where it is clipped. It comes of itself where the codes have the gradient of x / s within the range and none beyond.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StepSize(nn.Module):
    """Scales (N, G) or () of rounding, fixed, or trained from where they began.

    What is trained is the logarithm of the scale's ratio to its beginning, so scales stay positive, and one learning
    rate suits scales of every size. Gradients are multiplied by LSQ's 1 / sqrt(n Q), n being the `shared_by` numbers
    that one scale rounds and Q the largest code, so that those of scales do not drown those of weights where both are
    clipped together.
    """

    began: Tensor

    def __init__(self, scale: Tensor, shared_by: int, largest: float, *, learned: bool) -> None:
        super().__init__()
        self.register_buffer("began", scale.clone())
        self.growth = nn.Parameter(torch.zeros_like(scale)) if learned else None
        self.share = 1 / math.sqrt(shared_by * largest)

    def forward(self) -> Tensor:
        """The scales as they are now."""
        if self.growth is None:
            return self.began
        return self.began * straight_through(self.growth, self.growth * self.share).exp()


def straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    """Exactly the rounded values, with the gradient of the exact ones (arXiv 1308.3432)."""
    return rounded.detach() + (exact - exact.detach())  # the difference is 0, so nothing is rounded again


def within(scaled: Tensor, inside: Tensor) -> Tensor:
    """The scaled numbers, whose gradient stops where they are not inside the range."""
    return torch.where(inside, scaled, scaled.detach())
