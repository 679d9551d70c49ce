"""TiTok (arXiv 2406.07550): a picture as a short row of tokens, by transformers that see patches and tokens together.

Letters: B batch, H x W pixels, p the side of a patch, P patches of a picture, N tokens of a picture, D width of a
transformer, z the width of a code, K codes of the pixel decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import MOST_SIDE
from compress.models.bounds import MOST_BLOCKS, MOST_TOKENS, check_sizes
from compress.models.tokenizer.codebook import Codebook, channels_first
from compress.models.tokenizer.vq import MOST, VqAutoencoder, VqConfig

HEAD_WIDTH = 64  # in every published size


@dataclass(frozen=True)
class VitConfig:
    """One of the two transformers: its width, layers, the side of a patch in pixels, and patches along one side."""

    width: int
    layers: int
    patch: int
    side: int

    def __post_init__(self) -> None:
        """Refuse numbers that no transformer has.

        Raises:
            ValueError: says which.
        """
        check_sizes(self, "width", most=MOST)
        check_sizes(self, "layers", most=MOST_BLOCKS)
        check_sizes(self, "patch", "side", most=MOST_SIDE)
        if self.width % HEAD_WIDTH or self.side * self.patch > MOST_SIDE:
            raise ValueError(
                f"{self}: the width must be a multiple of {HEAD_WIDTH}, and a picture have at most {MOST_SIDE} pixels "
                "along a side"
            )


@dataclass(frozen=True)
class TitokConfig:
    """The architecture, in the numbers that a checkpoint's shapes must agree with.

    With `pixels`, a VQ decoder without an encoder, the decoder's transformer says how likely each of its codes is in
    every patch; without, it says the pixels themselves.
    """

    codes: int
    code_width: int
    tokens: int
    encoder: VitConfig
    decoder: VitConfig
    normalised_codes: bool = True
    pixels: VqConfig | None = None
    pixel_range: Literal["signed", "unit"] = "unit"

    def __post_init__(self) -> None:
        """Refuse numbers that do not belong together.

        Raises:
            ValueError: says which.
        """
        check_sizes(self, "codes", "code_width", most=MOST)
        check_sizes(self, "tokens", most=MOST_TOKENS)
        drawn = self.decoder.side * (self.pixels.factor if self.pixels else self.decoder.patch)
        if drawn != self.size:
            raise ValueError(f"the encoder reads pictures of {self.size} pixels and the decoder draws {drawn}")

    @property
    def size(self) -> int:
        """Pixels along one side of a picture."""
        return self.encoder.side * self.encoder.patch


class VitBlock(nn.Module):
    """Pre-norm attention among all places, then a feed-forward network of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention_norm(x)
        heads = (
            linear(y).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        x = x + self.output(functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.ffn_norm(x))))


class Vit(nn.Module):
    """A transformer over a class token, the patches and the tokens of a picture, each with learned positions."""

    def __init__(self, config: VitConfig, tokens: int) -> None:
        super().__init__()
        self.patches = config.side**2
        self.class_token = nn.Parameter(torch.zeros(1, config.width))
        self.positions = nn.Parameter(torch.zeros(self.patches + 1, config.width))
        self.token_positions = nn.Parameter(torch.zeros(tokens, config.width))
        self.before = nn.LayerNorm(config.width)
        self.blocks = nn.ModuleList(VitBlock(config.width) for _ in range(config.layers))
        self.after = nn.LayerNorm(config.width)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What becomes of patches (B, P, D) and tokens (B, N, D)."""
        start = self.class_token.expand(len(patches), 1, -1)
        x = torch.cat([torch.cat([start, patches], dim=1) + self.positions, tokens + self.token_positions], dim=1)
        x = self.before(x)
        for block in self.blocks:
            x = block(x)
        x = self.after(x)
        return x[:, 1 : 1 + self.patches], x[:, 1 + self.patches :]


class TitokEncoder(nn.Module):
    """Pixels (B, 3, H, W) to latents (B, z, 1, N)."""

    def __init__(self, config: TitokConfig) -> None:
        super().__init__()
        width = config.encoder.width
        self.patch = nn.Conv2d(3, width, config.encoder.patch, stride=config.encoder.patch)
        self.tokens = nn.Parameter(torch.zeros(config.tokens, width))
        self.trunk = Vit(config.encoder, config.tokens)
        self.head = nn.Linear(width, config.code_width)
        self.mixed = config.pixels is not None

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch(pixels).flatten(2).transpose(1, 2)  # (B, P, D)
        _, tokens = self.trunk(patches, self.tokens.expand(len(pixels), -1, -1))
        if self.mixed:
            # The first checkpoints were trained with numbers (N, D) read as (D, N); their weights need just that.
            tokens = tokens.reshape(len(tokens), tokens.shape[2], tokens.shape[1]).transpose(1, 2)
        return self.head(tokens).transpose(1, 2).unsqueeze(2)


class TitokDecoder(nn.Module):
    """Latents (B, z, 1, N) to scores of the pixel decoder's codes (B, h, w, K), or to pixels (B, 3, H, W)."""

    def __init__(self, config: TitokConfig) -> None:
        super().__init__()
        width = config.decoder.width
        self.config = config
        self.embed = nn.Linear(config.code_width, width)
        self.mask = nn.Parameter(torch.zeros(1, 1, width))
        self.trunk = Vit(config.decoder, config.tokens)
        self.hidden: nn.Linear | None = None
        self.smooth: nn.Conv2d | None = None
        if config.pixels is not None:
            self.hidden = nn.Linear(width, 2 * width)
            self.head = nn.Linear(2 * width, config.pixels.codes)
        else:
            self.head = nn.Linear(width, 3 * config.decoder.patch**2)
            self.smooth = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        tokens = self.embed(latents.squeeze(2).transpose(1, 2))  # (B, N, D)
        patches, _ = self.trunk(self.mask.expand(len(tokens), self.trunk.patches, -1), tokens)
        side, patch = self.config.decoder.side, self.config.decoder.patch
        if self.hidden is not None:
            return self.head(torch.tanh(self.hidden(patches))).unflatten(1, (side, side))
        shown = self.head(patches).unflatten(1, (side, side)).unflatten(3, (patch, patch, 3))  # (B, h, w, p, p, 3)
        shown = shown.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return shown if self.smooth is None else self.smooth(shown)


class TitokAutoencoder(nn.Module):
    """Pixels to a row of codes (B, 1, N) and back."""

    def __init__(self, config: TitokConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TitokEncoder(config)
        self.quantizer = Codebook(config.codes, config.code_width, normalised=config.normalised_codes)
        self.decoder = TitokDecoder(config)
        self.pixels = VqAutoencoder(config.pixels) if config.pixels else None

    @property
    def embedding(self) -> nn.Embedding:
        """The codes; `embedding.weight` is (codes, z)."""
        return self.quantizer.embedding

    @property
    def can_encode(self) -> bool:
        """Whether there is an encoder."""
        return True

    def code_shape(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a picture's codes.

        Raises:
            ValueError: the grid is not the row that there is.
        """
        if grid != (1, self.config.tokens):
            raise ValueError(f"grid {grid}: must be {(1, self.config.tokens)}")
        return grid

    def size_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.config.size, self.config.size

    def latents(self, pixels: Tensor) -> Tensor:
        """Latents (B, z, 1, N) of pixels (B, 3, H, W) in the model's range."""
        return self.encoder(pixels)

    def quantize(self, latents: Tensor) -> Tensor:
        """Codes (B, 1, N) int64 of latents (B, z, 1, N): the nearest ones."""
        return self.quantizer.quantize(latents)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents (B, z, 1, N) that the codes (B, 1, N) stand for."""
        return self.quantizer.lookup(codes)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in the model's range, not clamped, of latents (B, z, 1, N)."""
        shown = self.decoder(latents)
        if self.pixels is None:
            return shown
        return self.pixels.decode(channels_first(shown.softmax(dim=-1) @ self.pixels.embedding.weight))
