"""The convolutional autoencoder of image tokens; its config covers what published tokenizers differ in.

Letters: B batch, C channels, H x W pixels, h x w the latent grid, z the width of a code, K codes. Levels count from
full resolution (0) down; each further level halves height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from compress.core.settings import shown
from compress.models.bounds import check_epsilon, check_sizes
from compress.models.tokenizer.codebook import Codebook
from compress.models.tokenizer.light import LightConfig, LightDecoder
from compress.models.tokenizer.scales import MultiScaleQuantizer, ScalesConfig

MOST = 2**20  # codes or channels; the largest published codebook has 2^18
MOST_LEVEL_BLOCKS = 64  # residual blocks of one resolution; published ones have 1 to 4
MOST_LEVELS = 10  # resolutions: a latent stands for 512 x 512 pixels


@dataclass(frozen=True)
class VqConfig:
    """The architecture, in the numbers that a checkpoint's shapes must agree with.

    `encoder_channels` and `decoder_channels` are the widths of the levels, from full resolution down; without
    `encoder_channels` there is no encoder. `attention_levels` have attention behind every residual block. With `light`
    the decoder is a light one, and of `decoder_channels` only their number counts.
    """

    codes: int
    code_width: int
    latent_width: int  # what the encoder gives and the decoder takes, outside of the quant convolutions
    encoder_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    stem_width: int = 0  # channels of the encoder's first convolution; 0 is those of level 0
    attention_levels: tuple[int, ...] = ()
    middle_attention: bool = True
    normalised_codes: bool = False
    quant_kernel: int = 1  # of the convolutions around the codebook; 0 has none
    head_kernel: int = 3  # of the encoder's last convolution
    bias: bool = True  # of the encoder's first convolution and of those in residual blocks
    shortcut: Literal["input", "output"] = "input"
    downsample: Literal["conv", "pool"] = "conv"
    pixel_range: Literal["signed", "unit"] = "signed"
    norm_groups: int = 32
    norm_epsilon: float = 1e-6
    scales: ScalesConfig | None = None
    light: LightConfig | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no autoencoder has.

        Raises:
            ValueError: says which.
        """
        check_sizes(self, "codes", "code_width", "latent_width", "norm_groups", most=MOST)
        check_sizes(self, "encoder_blocks", "decoder_blocks", most=MOST_LEVEL_BLOCKS)
        check_epsilon(self.norm_epsilon)
        both = 0, len(self.decoder_channels)
        if not 1 <= len(self.decoder_channels) <= MOST_LEVELS or len(self.encoder_channels) not in both:
            raise ValueError(
                f"encoder_channels {shown(self.encoder_channels)} and decoder_channels "
                f"{shown(self.decoder_channels)}: need the same number of levels, 1 to {MOST_LEVELS}"
            )
        for channels in (*self.encoder_channels, *self.decoder_channels, *([self.stem_width] * bool(self.stem_width))):
            if not 1 <= channels <= MOST or channels % self.norm_groups:
                raise ValueError(f"{shown(channels)} channels: norm_groups {self.norm_groups} must divide them")
        if any(not 0 <= level < self.levels for level in self.attention_levels):
            raise ValueError(
                f"attention_levels {shown(self.attention_levels)}: there are levels 0 to {self.levels - 1}"
            )
        if self.quant_kernel not in (0, 1, 3) or self.head_kernel not in (1, 3):
            raise ValueError(
                f"quant_kernel {shown(self.quant_kernel)} and head_kernel {shown(self.head_kernel)}: known are 1 and 3"
            )
        if self.light is not None and len(self.light.channels) > self.levels:
            raise ValueError(f"light: {len(self.light.channels)} levels; this decoder has {self.levels} at most")
        if self.light is not None and self.light.channels[0] % self.norm_groups:
            raise ValueError(
                f"light: {self.light.channels[0]} channels: norm_groups {self.norm_groups} must divide them"
            )
        if not self.quant_kernel and self.code_width != self.latent_width:
            raise ValueError(
                f"code_width {self.code_width} is not latent_width {self.latent_width}; that takes a quant_kernel"
            )

    @property
    def levels(self) -> int:
        """Resolutions."""
        return len(self.decoder_channels)

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent."""
        return int(2 ** (self.levels - 1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the channels change.

    With the shortcut 'output' that convolution takes what the block computed and not its input: the MaskGIT-VQGAN was
    trained with this, so its weights need it.
    """

    def __init__(self, config: VqConfig, before: int, after: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.norm_groups, before, eps=config.norm_epsilon)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=config.bias)
        self.norm2 = nn.GroupNorm(config.norm_groups, after, eps=config.norm_epsilon)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=config.bias)
        self.from_output = config.shortcut == "output"
        self.shortcut: nn.Conv2d | None = None
        if before != after:
            self.shortcut = nn.Conv2d(after if self.from_output else before, after, 1, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.conv2(functional.silu(self.norm2(y)))
        if self.shortcut is None:
            return x + y
        return self.shortcut(y if self.from_output else x) + y


class SpatialAttention(nn.Module):
    """Attention of one head among all places of a feature map, with a residual."""

    def __init__(self, config: VqConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=config.norm_epsilon)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, h w, C)
        mixed = functional.scaled_dot_product_attention(self.query(places), self.key(places), self.value(places))
        return x + self.output(mixed).squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Half the height and width: a convolution that pads at the bottom and the right only, or the mean of 2x2."""

    def __init__(self, config: VqConfig, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if config.downsample == "conv" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return functional.avg_pool2d(x, 2)
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, attention behind the first of them, then perhaps another resolution."""

    def __init__(
        self, config: VqConfig, channels: Sequence[int], attentions: int, resample: nn.Module | None = None
    ) -> None:
        """`channels` holds those of the input and then those behind each block."""
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(config, before, after) for before, after in pairwise(channels))
        self.attentions = nn.ModuleList(SpatialAttention(config, channels[index + 1]) for index in range(attentions))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index < len(self.attentions):
                x = self.attentions[index](x)
        return x if self.resample is None else self.resample(x)


def middle(config: VqConfig, channels: int) -> Level:
    """The two blocks at the lowest resolution, between which there may be attention."""
    return Level(config, (channels,) * 3, int(config.middle_attention))


class EncoderNetwork(nn.Module):
    """Pixels (B, 3, H, W) to features (B, latent_width, h, w)."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        width = config.stem_width or config.encoder_channels[0]
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=config.bias)
        levels = []
        for index, channels in enumerate(config.encoder_channels):
            widths = (width, *(channels,) * config.encoder_blocks)
            attentions = config.encoder_blocks if index in config.attention_levels else 0
            last = index == config.levels - 1
            levels.append(Level(config, widths, attentions, None if last else Downsample(config, channels)))
            width = channels
        self.levels = nn.ModuleList(levels)
        self.middle = middle(config, width)
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=config.norm_epsilon)
        self.head = nn.Conv2d(width, config.latent_width, config.head_kernel, padding=config.head_kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for level in self.levels:
            x = level(x)
        return self.head(functional.silu(self.norm(self.middle(x))))


class DecoderNetwork(nn.Module):
    """Features (B, latent_width, h, w) to pixels (B, 3, H, W); levels stand in order of execution, lowest first."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        width = config.decoder_channels[-1]
        self.stem = nn.Conv2d(config.latent_width, width, 3, padding=1)
        self.middle = middle(config, width)
        levels = []
        for index in reversed(range(config.levels)):
            channels = config.decoder_channels[index]
            widths = (width, *(channels,) * config.decoder_blocks)
            attentions = config.decoder_blocks if index in config.attention_levels else 0
            levels.append(Level(config, widths, attentions, Upsample(channels) if index else None))
            width = channels
        self.levels = nn.ModuleList(levels)
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=config.norm_epsilon)
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x))
        for level in self.levels:
            x = level(x)
        return self.head(functional.silu(self.norm(x)))


def decoder_of(config: VqConfig) -> DecoderNetwork | LightDecoder:
    """Features (B, latent_width, h, w) to pixels (B, 3, H, W)."""
    if config.light is None:
        return DecoderNetwork(config)
    return LightDecoder(
        config.light, config.latent_width, config.factor, lambda before, after: ResidualBlock(config, before, after)
    )


def quant_conv(config: VqConfig, before: int, after: int) -> nn.Module:
    """The convolution beside the codebook, if there is one."""
    if not config.quant_kernel:
        return nn.Identity()
    return nn.Conv2d(before, after, config.quant_kernel, padding=config.quant_kernel // 2)


class VqAutoencoder(nn.Module):
    """VQGAN (arXiv 2012.09841) and its kin: pixels to codes and back.

    Codes are (B, h, w); where the config has scales they are (B, T), all scales one after the other.
    """

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = EncoderNetwork(config) if config.encoder_channels else None
        self.before_codes = quant_conv(config, config.latent_width, config.code_width) if self.encoder else None
        book = Codebook(config.codes, config.code_width, normalised=config.normalised_codes)
        self.quantizer = book if config.scales is None else MultiScaleQuantizer(book, config.scales)
        self.after_codes = quant_conv(config, config.code_width, config.latent_width)
        self.decoder = decoder_of(config)

    @property
    def embedding(self) -> nn.Embedding:
        """The codes; `embedding.weight` is (K, z)."""
        return self.quantizer.embedding

    @property
    def can_encode(self) -> bool:
        """Whether there is an encoder."""
        return self.encoder is not None

    def code_shape(self, grid: tuple[int, int]) -> tuple[int, ...]:
        """The shape of a picture's codes.

        Raises:
            ValueError: the grid is empty, or not the finest scale.
        """
        if min(grid) < 1:
            raise ValueError(f"grid {grid}: is empty")
        if self.config.scales is None:
            return grid
        finest = (self.config.scales.sides[-1],) * 2
        if grid != finest:
            raise ValueError(f"grid {grid}: must be {finest}")
        return (self.config.scales.length,)

    def size_of(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a picture."""
        return grid[0] * self.config.factor, grid[1] * self.config.factor

    def latents(self, pixels: Tensor) -> Tensor:
        """Latents (B, z, h, w) of pixels (B, 3, H, W) in the model's range."""
        if self.encoder is None or self.before_codes is None:
            raise ValueError("this autoencoder has no encoder: its checkpoint held none")
        return self.before_codes(self.encoder(pixels))

    def quantize(self, latents: Tensor) -> Tensor:
        """Codes int64 of latents (B, z, h, w): the nearest ones."""
        return self.quantizer.quantize(latents)

    def lookup(self, codes: Tensor) -> Tensor:
        """Latents (B, z, h, w) that the codes stand for."""
        return self.quantizer.lookup(codes)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in the model's range, not clamped, of latents (B, z, h, w)."""
        return self.decoder(self.after_codes(latents))
