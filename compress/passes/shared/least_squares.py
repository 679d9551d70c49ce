"""Ridge-regularised least squares for a linear layer whose outputs are gated, from sums over rows alone.

Letters: N rows in all, n rows of a batch, K inputs, D outputs.

Wanted is the change C (D, K) of the layer's weights that makes up best for what is missing behind it: over all rows

    sum |missing - gates * (C inputs)|^2  +  ridge * sum over inputs k and outputs d of scale_d C_dk^2

where scale_d is the sum of squares (gates_d inputs_k)^2, the mean over k: one penalty for all inputs of an output. With
one for each input's own squares, inputs that are nearly always 0 would get weights a hundred times as large as any
before, which cost nothing here and everything when they are quantized.
Without gates all outputs have the same normal equations, which are solved directly. With gates each output has its own
(K, K) matrix, too many to keep; conjugate gradients solve them together (Hestenes and Stiefel 1952), preconditioned by
the matrix with the mean gate of a row. Rows of one class have the same gates: each output's matrix is then a sum of the
classes' grams, which are kept where they are few. Elsewhere an iteration takes another pass over the rows, and there
are fewer. All is in float64, and the rows are never kept: they come again, from the function that gave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_PIVOT = 1e-10  # of a matrix of unit diagonal: what is smaller is rounding
FIRST_DAMPING = 1e-9  # where the ridge is 0; times ten until the matrix is regular
MOST_ITERATIONS = 100
MOST_PASSES = 8  # over the rows: most of what is missing is made up for by then
TOLERANCE = 1e-3  # of the norm of the preconditioned residual, relative to the first
MOST_BYTES = 2**28  # of grams that are kept
LEAST_RUN = 8  # rows that gates are shared by, on average: below it grams take more time than the rows


class SolveError(Exception):
    """There is no solution; the text says why."""


class Rows(NamedTuple):
    """A batch of rows: what a layer reads (n, K), what is missing behind it (n, D), and the gates (n, D) if any."""

    inputs: Tensor
    missing: Tensor
    gates: Tensor | None = None


class Gated(NamedTuple):
    """A batch of rows without what is missing: inputs (n, K) and gates (n, D)."""

    inputs: Tensor
    gates: Tensor


@dataclass(frozen=True)
class Solution:
    """The change (D, K) of the weights.

    `rows` is how many there were; `damped` the ridge that it took where the given one was too little, else 0;
    `iterations` those of conjugate gradients.
    """

    change: Tensor
    rows: int
    damped: float
    iterations: int


Groups = dict[bytes, tuple[Tensor, Tensor]]  # squared gates (D,) and the gram (K, K) of the rows that have them


@dataclass
class Moments:
    """Sums over rows: the gram (K, K) of the inputs, each row weighted by the mean of its squared gates, and the rest.

    `right` (D, K) are the right sides; `weights` (D,) the sums of squared gates, `weight` that of their means. `groups`
    are the grams of rows with equal gates, None where they would be too many.
    """

    gram: Tensor
    right: Tensor
    weights: Tensor
    weight: float = 0.0
    rows: int = 0
    gated: bool = False
    groups: Groups | None = field(default_factory=dict)

    @classmethod
    def of(cls, batches: Iterator[Rows], outputs: int, inputs: int) -> Moments:
        """Of rows with so many outputs and inputs."""
        gram, right, weights = (
            torch.zeros(shape, dtype=torch.float64) for shape in ((inputs, inputs), (outputs, inputs), (outputs,))
        )
        sums = cls(gram, right, weights)
        for x, missing, gates in ((each.inputs.double(), each.missing.double(), each.gates) for each in batches):
            sums.rows += len(x)
            if gates is None:
                sums.gram += x.T @ x
                sums.right += missing.T @ x
                continue
            gates, sums.gated = gates.double(), True
            squares = gates.square()
            means = squares.mean(dim=1)
            sums.gram += (x * means[:, None]).T @ x
            sums.right += (gates * missing).T @ x
            sums.weights += squares.sum(dim=0)
            sums.weight += float(means.sum())
            if sums.groups is not None:
                sums.groups = grouped(sums.groups, x, squares)
        return sums

    @property
    def shares(self) -> Tensor:
        """By how much each output's matrix is larger than the gram, on average, (D, 1)."""
        return (self.weights / self.weight)[:, None] if self.gated and self.weight else self.weights[:, None] + 1.0


def solve(rows: Iterator[Rows], again: Callable[[], Iterator[Gated]], shape: tuple[int, int], ridge: float) -> Solution:
    """The best change of this shape (D, K); `again` gives the rows once more, and is only called where there are gates.

    Raises:
        SolveError: the rows hold NaN or Inf.
    """
    sums = Moments.of(rows, *shape)
    if not (sums.gram.isfinite().all() and sums.right.isfinite().all()):
        raise SolveError("what goes into it, or what is missing behind it, holds NaN or Inf")
    energy = sums.gram.diagonal()
    scale = torch.where(energy > 0, energy.rsqrt(), 0.0)  # an input that is always 0 keeps its weights
    penalty = energy.mean()
    factor, used = factored(sums.gram * scale[:, None] * scale, penalty * scale.square(), ridge)
    shares = torch.where(sums.shares > 0, 1 / sums.shares, 0.0)

    def nearly(right: Tensor) -> Tensor:
        """The solution (D, K) where every output has the gram, times its share."""
        return torch.cholesky_solve((right * scale).T, factor).T * scale * shares

    damped = used if used > ridge else 0.0
    if not sums.gated:
        return Solution(nearly(sums.right), sums.rows, damped, 0)
    ridges = used * sums.shares * penalty

    def product(change: Tensor) -> Tensor:
        """Each output's matrix times its row of a change (D, K)."""
        made = ridges * change
        if sums.groups is not None:
            for squares, gram in sums.groups.values():
                made += squares[:, None] * (change @ gram)
            return made
        for x, gates in ((each.inputs.double(), each.gates.double()) for each in again()):
            made += (gates.square() * (x @ change.T)).T @ x
        return made

    most = MOST_PASSES if sums.groups is None else MOST_ITERATIONS
    change, iterations = conjugate_gradients(product, nearly, sums.right, most)
    return Solution(change, sums.rows, damped, iterations)


def grouped(groups: Groups, x: Tensor, squares: Tensor) -> Groups | None:
    """The grams with those of more rows x (n, K), whose squared gates are `squares` (n, D); None: they are too many."""
    kinds, counts = torch.unique_consecutive(squares, dim=0, return_counts=True)
    if len(kinds) * LEAST_RUN > len(x):
        return None
    for kind, run in zip(kinds, x.split(counts.tolist()), strict=True):
        key = kind.numpy().tobytes()
        if key not in groups and (len(groups) + 1) * x.shape[1] ** 2 * x.element_size() > MOST_BYTES:
            return None
        before = groups.get(key, (kind, torch.zeros(())))[1]
        groups[key] = kind, before + run.T @ run
    return groups


def factored(matrix: Tensor, penalty: Tensor, ridge: float) -> tuple[Tensor, float]:
    """The Cholesky factor of a matrix of unit diagonal with `ridge` times a penalty (K,) added to it, and the ridge.

    It is more where the matrix is singular all the same. An input without squares has no penalty; its 0 becomes 1.
    """
    used = ridge
    ones = (matrix.diagonal() == 0).to(matrix.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(used * penalty + ones))
        if not failed and float(factor.diagonal().min()) ** 2 >= LEAST_PIVOT:
            return factor, used
        used = max(FIRST_DAMPING, 10 * used)


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], nearly: Callable[[Tensor], Tensor], right: Tensor, most: int
) -> tuple[Tensor, int]:
    """Solve a symmetric system for every row of `right` (D, K), and say how many products it took, at most `most`.

    `product` multiplies each row with its matrix, `nearly` solves for each row with one that is like it.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    preconditioned = nearly(residual)
    direction = preconditioned
    energy = (residual * preconditioned).sum(dim=1, keepdim=True)  # (D, 1)
    first = float(energy.sum())
    for iteration in range(most):
        if not first or math.sqrt(max(0.0, float(energy.sum())) / first) <= TOLERANCE:
            return solution, iteration
        multiplied = product(direction)
        curvature = (direction * multiplied).sum(dim=1, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        solution = solution + step * direction
        residual = residual - step * multiplied
        preconditioned = nearly(residual)
        before, energy = energy, (residual * preconditioned).sum(dim=1, keepdim=True)
        direction = preconditioned + torch.where(before > 0, energy / before, 0.0) * direction
    return solution, most
