"""What stands around the blocks of a U-ViT (aMUSEd, arXiv 2401.01808): its text condition, its stem and its head.

Letters: B batch, T tokens of a picture, h x w their grid, S positions of the blocks, P states of a text, D width of the
blocks, X width of a text's states and vector, E width of the embeddings, C channels of the convolutional stages.

Maps are kept as rows of positions, (B, h w, C), because all but the depthwise convolution works on channels alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import shown
from compress.models.bounds import HUGE, MOST_BLOCKS, check_sizes
from compress.models.transformer.conditioned import CrossAttention, Steer, sinusoids
from export.runtime.shape import TextShape

MOST_SIZE = 64  # numbers that a model is told of the picture
EXPANSION = 4  # hidden channels of a residual block for each of its channels
TEXT_EPSILON = 1e-6  # of the norms before a stage's attention, whatever the model's own is


@dataclass(frozen=True)
class UvitConfig:
    """Widths of the stem and the head, and what the text condition is made of.

    `embedding` is the width of the tokens' embeddings, `channels` that of the two convolutional stages, each `depth`
    residual blocks with attention to the text in `heads` heads. With `halved` the blocks see every 2 x 2 tokens as one
    position. `cross_heads` is the text attention of the blocks.

    Features of a text (P + 1, max(text_width, pooled_width)) are the encoder's states, `text_width` wide, and in the
    last row the pooled embedding, `pooled_width` wide; what is left of a row is not read. `size` is what else the
    model is told of the picture: width, height, crop from the left and top, aesthetic score; each becomes `size_width`
    numbers.
    """

    embedding: int
    channels: int
    depth: int
    heads: int
    cross_heads: int
    text_width: int
    pooled_width: int
    size: tuple[float, ...]
    size_width: int
    halved: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no model has.

        Raises:
            ValueError: says which.
        """
        check_sizes(self, "embedding", "channels", "heads", "cross_heads", "text_width", "pooled_width", "size_width")
        check_sizes(self, "depth", most=MOST_BLOCKS)
        if self.channels % self.heads:
            raise ValueError(f"heads {self.heads}: must divide the {self.channels} channels")
        if self.size_width % 2:
            raise ValueError(f"size_width {self.size_width}: must be even, for a cosine and a sine of each frequency")
        if len(self.size) > MOST_SIZE or any(not abs(number) < HUGE for number in self.size):
            raise ValueError(f"size {shown(self.size)}: must be at most {MOST_SIZE} numbers below {HUGE:g}")


class TextCondition(nn.Module):
    """A text's features as states that attention reads, and as one vector that scales and shifts; or no text."""

    null: Tensor
    size: Tensor

    def __init__(self, config: UvitConfig, text: TextShape, width: int, epsilon: float) -> None:
        super().__init__()
        self.text_width, self.pooled_width = config.text_width, config.pooled_width
        size = sinusoids(config.size, config.size_width)
        self.register_buffer("null", torch.zeros(text.length, text.width))
        self.register_buffer("size", size, persistent=False)
        self.project = nn.Linear(config.text_width, width, bias=False)
        self.norm = nn.RMSNorm(width, eps=epsilon)
        self.up = nn.Linear(config.pooled_width + len(size), width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, features: Tensor, null: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, P, X) and vectors (B, 1, X) of features (B, P + 1, ...); where `null` (B,) those of no text."""
        given = torch.where(null[:, None, None], self.null, features)
        states, pooled = given[:, :-1, : self.text_width], given[:, -1:, : self.pooled_width]
        size = self.size.expand(given.shape[0], 1, -1)  # `len` would fix the batch of an exported graph
        vector = self.down(functional.silu(self.up(torch.cat([pooled, size], dim=-1))))
        return self.norm(self.project(states)), vector


class ResponseNorm(nn.Module):
    """Global response normalisation (arXiv 2301.00808): each channel by its share of the picture's energy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, h w, C)."""
        energy = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        return self.weight * (x * share) + self.bias + x


class ResidualBlock(nn.Module):
    """A ConvNeXt block that a vector scales and shifts at its end."""

    def __init__(self, config: UvitConfig, width: int, epsilon: float) -> None:
        super().__init__()
        channels, hidden = config.channels, EXPANSION * config.channels
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.RMSNorm(channels, eps=epsilon)
        self.up = nn.Linear(channels, hidden, bias=False)
        self.response = ResponseNorm(hidden)
        self.down = nn.Linear(hidden, channels, bias=False)
        self.modulation = Steer(channels, width)

    def forward(self, x: Tensor, grid: tuple[int, int], vector: Tensor) -> Tensor:
        """x (B, h w, C) under vectors (B, 1, X)."""
        mixed = as_rows(self.depthwise(as_map(x, grid)))
        mixed = self.response(functional.gelu(self.up(self.norm(mixed))))
        return self.modulation(x + self.down(mixed), vector)


class TextLayer(nn.Module):
    """Attention to the text twice, with one mapping of its states for both."""

    def __init__(self, config: UvitConfig, width: int) -> None:
        super().__init__()
        channels = config.channels
        self.states = nn.Linear(width, channels, bias=False) if width != channels else None
        self.first_norm, self.second_norm = (nn.RMSNorm(channels, eps=TEXT_EPSILON) for _ in range(2))
        self.first, self.second = (CrossAttention(channels, channels, config.heads, channels) for _ in range(2))

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        """x (B, h w, C) with a text's states (B, P, X)."""
        if self.states is not None:
            states = self.states(functional.silu(states))
        x = x + self.first(self.first_norm(x), states)
        return x + self.second(self.second_norm(x), states)


class Stage(nn.Module):
    """Residual blocks, each with its attention to the text."""

    def __init__(self, config: UvitConfig, width: int, epsilon: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(config, width, epsilon) for _ in range(config.depth))
        self.texts = nn.ModuleList(TextLayer(config, width) for _ in range(config.depth))

    def forward(self, x: Tensor, grid: tuple[int, int], states: Tensor, vector: Tensor) -> Tensor:
        """x (B, h w, C)."""
        for block, text in zip(self.blocks, self.texts, strict=True):
            x = text(block(x, grid, vector), states)
        return x


class Stem(nn.Module):
    """From embeddings of tokens to the residual stream of the blocks."""

    def __init__(self, config: UvitConfig, grid: tuple[int, int], width: int, text: int, epsilon: float) -> None:
        super().__init__()
        self.grid, self.inner = grid, inner_grid(config, grid)
        self.norm = nn.RMSNorm(config.embedding, eps=epsilon)
        self.enter = nn.Linear(config.embedding, config.channels, bias=False)
        self.resample = Resample(config.channels, epsilon, up=False) if config.halved else None
        self.stage = Stage(config, text, epsilon)
        self.leave_norm = nn.RMSNorm(config.channels, eps=epsilon)
        self.leave = nn.Linear(config.channels, width, bias=False)

    def forward(self, x: Tensor, states: Tensor, vector: Tensor) -> Tensor:
        """The stream (B, S, D) of embeddings (B, T, E)."""
        x = self.enter(self.norm(x))
        if self.resample is not None:
            x = self.resample(x, self.grid)
        return self.leave(self.leave_norm(self.stage(x, self.inner, states, vector)))


class Tail(nn.Module):
    """From the residual stream, normalised, to what the head reads."""

    def __init__(self, config: UvitConfig, grid: tuple[int, int], width: int, text: int, epsilon: float) -> None:
        super().__init__()
        self.inner = inner_grid(config, grid)
        self.enter = nn.Linear(width, config.channels, bias=False)
        self.stage = Stage(config, text, epsilon)
        self.resample = Resample(config.channels, epsilon, up=True) if config.halved else None
        self.leave = nn.Linear(config.channels, config.embedding, bias=False)
        self.norm = nn.RMSNorm(config.embedding, eps=epsilon)

    def forward(self, x: Tensor, states: Tensor, vector: Tensor) -> Tensor:
        """Rows (B, T, E) of a stream (B, S, D)."""
        x = self.stage(self.enter(x), self.inner, states, vector)
        if self.resample is not None:
            x = self.resample(x, self.inner)
        return self.norm(self.leave(x))


class Resample(nn.Module):
    """Every 2 x 2 positions to one, or back."""

    def __init__(self, channels: int, epsilon: float, *, up: bool) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.norm = nn.RMSNorm(channels, eps=epsilon)
        self.convolution = kind(channels, channels, 2, stride=2, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (B, h w, C) of a grid (h, w)."""
        return as_rows(self.convolution(as_map(self.norm(x), grid)))


def inner_grid(config: UvitConfig, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of positions that the blocks see."""
    return (grid[0] // 2, grid[1] // 2) if config.halved else grid


def as_map(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rows of positions (B, h w, C) as a map (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, grid)


def as_rows(x: Tensor) -> Tensor:
    """A map (B, C, h, w) as rows of positions (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)
