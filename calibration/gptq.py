"""Rounding of a layer's weights so that its outputs change least on what it really reads (GPTQ, arXiv 2210.17323).

Letters: N outputs, K inputs, R rows of inputs.

Rounding a weight by an error e changes the outputs by e times that weight's input. GPTQ rounds one input's weights
after the other and moves the error of each onto the weights of those that are still exact, so that the sum of squared
changes over the observed inputs, given by their Gram matrix X^T X (K, K), stays least. Inputs with the largest squares
come first ("act-order"); scales are fixed beforehand ("static groups").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

COLUMNS = 128  # inputs whose errors are spread among each other first, and onto the rest in one product
DAMPING = 0.01  # of the mean of the Gram matrix's diagonal, added to it: the paper's
# An input of whose squares the inputs before it leave less than this share unexplained depends on them: sums of
# float32 products show no less.
DEPENDENT = 1e-6

Rounded = Callable[[int, Tensor], Tensor]


class Gram:
    """X^T X (K, K) of all inputs (R, K) that a layer has read, in double precision, and how many rows they were."""

    def __init__(self, inputs: int) -> None:
        self.matrix = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.rows = 0

    def add(self, x: Tensor) -> None:
        """Count the rows of inputs (R, K)."""
        self.matrix += (x.mT @ x).double()
        self.rows += len(x)


def spread_rounding(weight: Tensor, gram: Tensor, rounded: Rounded) -> bool:
    """Round weights (N, K), one input after the other, through `rounded`, which is told the input and its weights (N,).

    It returns what these are then, and keeps what it likes; each weight comes once. The Gram matrix (K, K) is damped,
    since its inverse is needed; whether it had none, because inputs depend on each other, is returned.

    Raises:
        ValueError: the Gram matrix holds NaN or Inf.
    """
    unread = gram.diagonal() == 0  # whatever their weights are, no output changes
    order = gram.diagonal().argsort(descending=True, stable=True)
    ordered = gram[order][:, order]
    ordered.diagonal()[unread[order]] = 1.0
    factor = upper_factor(ordered)
    left = weight.double()[:, order]
    for start in range(0, len(order), COLUMNS):
        block = slice(start, start + COLUMNS)
        own, inside = left[:, block], factor[block, block]
        errors = torch.zeros_like(own)
        for column in range(own.shape[1]):
            values = own[:, column]
            made = rounded(int(order[start + column]), values.float()).double()
            errors[:, column] = (values - made) / inside[column, column]
            own[:, column + 1 :] -= errors[:, column, None] * inside[column, column + 1 :]
        left[:, start + COLUMNS :] -= errors @ factor[block, start + COLUMNS :]
    return depends(ordered)


def upper_factor(gram: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped Gram matrix (K, K).

    Raises:
        ValueError: the matrix holds NaN or Inf.
    """
    damped = gram.clone()
    damped.diagonal().add_(DAMPING * float(gram.diagonal().mean()))
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError("the inputs hold NaN or Inf")
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return factor


def depends(gram: Tensor) -> bool:
    """Whether an input is a sum of multiples of others, to rounding."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    return bool(failed) or bool((lower.diagonal().square() < DEPENDENT * gram.diagonal()).any())
