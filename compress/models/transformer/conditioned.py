"""Layers that a condition steers: attention to the states of a text, and norms that a vector scales and shifts.

Letters: B batch, S positions, P states of a text, D width, C width of the states or of the vector, H heads, d head
width; all heads together are `inner` wide.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """Multi-head attention of positions to the states of a text; without biases."""

    def __init__(self, width: int, states: int, heads: int, inner: int) -> None:
        super().__init__()
        self.head_width = inner // heads
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(states, inner, bias=False)
        self.value = nn.Linear(states, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """What x (B, S, D) takes from states (B, P, C)."""
        query, key, value = (
            made.unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B, H, S or P, d)
            for made in (self.query(x), self.key(states), self.value(states))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Steer(nn.Module):
    """Scale and shift of the last axis by a vector (adaptive layer norm without a gate, arXiv 2212.09748)."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.linear = nn.Linear(condition, 2 * width, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, S, D) under conditions (B, 1, C)."""
        scale, shift = self.linear(functional.silu(condition)).chunk(2, dim=-1)
        return x * (1 + scale) + shift


class SteeredNorm(nn.Module):
    """A normalisation whose result a vector scales and shifts."""

    def __init__(self, norm: nn.Module, width: int, condition: int) -> None:
        super().__init__()
        self.norm = norm
        self.modulation = Steer(width, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, S, D) under conditions (B, 1, C)."""
        return self.modulation(self.norm(x), condition)


def sinusoids(numbers: tuple[float, ...], width: int) -> Tensor:
    """Cosines, then sines of numbers at `width` / 2 frequencies that fall from 1 towards 1/10,000; (n * width,)."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device="cpu") / half)
    angle = torch.tensor(numbers, dtype=torch.float32, device="cpu")[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1).flatten()
