"""Orthogonal matrices that spread a large entry of a vector over all others, by Hadamard matrices where there are some.

Letters: n size, q an odd prime.

A Hadamard matrix has entries of 1 and -1 and orthogonal rows, so that no rotation spreads more evenly. Those here are
Paley's (1933), of size q + 1 where q is 3 modulo 4 and of size 2 (q + 1) where q is 1 modulo 4, and their doublings
(Sylvester 1867). They cover the widths of published models but for single heads (of 85 or 100).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sylvester(size: int) -> Tensor:
    """The Hadamard matrix (n, n) in float64 whose size is a power of two; it is symmetric."""
    matrix = tensor([[1.0]])
    while len(matrix) < size:
        matrix = torch.kron(tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def hadamard(size: int) -> Tensor | None:
    """A Hadamard matrix (n, n) in float64; None where no construction here makes one."""
    core = size
    while (made := paley(core)) is None:
        if core % 2:
            return None
        core //= 2
    return torch.kron(sylvester(size // core), made)


def paley(size: int) -> Tensor | None:
    """Paley's matrix (n, n), or the one of size 1; None where n is not theirs."""
    if size == 1:
        return sylvester(1)
    if size % 4:
        return None
    if is_prime(size - 1):
        return conference(size - 1) + torch.eye(size, dtype=torch.float64, device="cpu")
    half = size // 2
    if half % 4 == 2 and is_prime(half - 1):
        outside, diagonal = tensor([[1.0, 1.0], [1.0, -1.0]]), tensor([[1.0, -1.0], [-1.0, -1.0]])
        units = torch.eye(half, dtype=torch.float64, device="cpu")
        return torch.kron(conference(half - 1), outside) + torch.kron(units, diagonal)
    return None


def conference(prime: int) -> Tensor:
    """The matrix (q + 1, q + 1) that has 0 on its diagonal and elsewhere whether a difference is a square modulo q.

    It is symmetric where q is 1 modulo 4, and skew where q is 3 modulo 4.
    """
    numbers = torch.arange(prime, device="cpu")
    character = torch.full((prime,), -1.0, dtype=torch.float64, device="cpu")
    character[numbers.square() % prime] = 1.0
    character[0] = 0.0
    matrix = torch.ones(prime + 1, prime + 1, dtype=torch.float64, device="cpu")
    matrix[0, 0] = 0.0
    matrix[1:, 0] = 1.0 if prime % 4 == 1 else -1.0
    matrix[1:, 1:] = character[(numbers[:, None] - numbers) % prime]
    return matrix


def is_prime(number: int) -> bool:
    """Whether a number is prime."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def tensor(rows: list[list[float]]) -> Tensor:
    """Rows as a matrix in float64."""
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def rotation(size: int, seed: int) -> Tensor:
    """An orthogonal matrix (n, n) in float64: Hadamard's with random signs of its inputs, where there is one.

    Otherwise one that is random altogether (the QR of normal numbers). Equal seeds give equal matrices.
    """
    source = np.random.Philox(seed)
    if (matrix := hadamard(size)) is None:
        drawn = np.random.Generator(source).standard_normal((size, size))
        orthogonal, upper = np.linalg.qr(drawn)
        return torch.from_numpy(orthogonal * np.sign(np.diag(upper)))
    signs = 1.0 - 2.0 * (source.random_raw(size) & 1).astype(np.float64)
    return matrix * torch.from_numpy(signs) / size**0.5


def mean_keeping(size: int, seed: int) -> Tensor:
    """`rotation`, and a reflection that takes equal numbers back to themselves: (n, n) in float64.

    Then the mean of a vector's entries stays what it is, and a layer norm commutes with the matrix. The reflection
    changes entries by about 1 / n, where they are about 1 / sqrt(n).
    """
    matrix = rotation(size, seed)
    away = matrix.sum(dim=1) - 1  # of where equal numbers go, from themselves
    length = away.square().sum()
    return matrix if length == 0 else matrix - torch.outer(away, away @ matrix) * (2 / length)
