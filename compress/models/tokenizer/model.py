"""Tokenizers: pictures to tokens and back.

Letters: N pictures, B batch, H x W pixels, C colour channels, h x w the token grid, T tokens of a picture, K colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.settings import MOST_WORDS, InputError, nearest, parse, plain, shown
from compress.models.bounds import check_grid, check_sizes
from compress.models.checkpoints.filling import fill
from compress.models.tokenizer.pictures import (
    Autoencoder,
    PaletteDecoder,
    PaletteEncoder,
    VqDecoder,
    VqEncoder,
    rounded,
)
from compress.models.tokenizer.titok import TitokAutoencoder, TitokConfig
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig

PIXELS_AT_ONCE = 2**18  # four pictures of 256x256: their widest feature maps take about 1 GB
DISTANCES_AT_ONCE = 2**24  # from pixels to colours, 64 MB
LOWEST, HIGHEST = -1, 256  # of a colour's values: centres of clusters may be rounded beyond the ends
MOST_CHANNELS = 4


class Tokenizer(Protocol):
    """What turns pictures into tokens and tokens into pictures."""

    @property
    def vocabulary(self) -> int:
        """Different tokens."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens, the finest where there are several scales."""

    @property
    def length(self) -> int:
        """Tokens of a picture."""

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width and colour channels of a picture."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, C).

        Raises:
            ValueError: the pictures have another size, or the tokenizer only decodes.
        """

    def decode(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, C) of tokens (N, T)."""

    def decoder(self) -> nn.Module:
        """Tokens (B, T) to pictures uint8 (B, H, W, C), and float32 in 0..1 before clamping and rounding."""

    def encoder(self) -> nn.Module | None:
        """Pictures uint8 (B, H, W, C) to tokens int64 (B, T); None where the checkpoint only decodes."""

    def describe(self) -> dict[str, Any]:
        """What `build` needs beside the weights, as JSON knows it."""

    def state(self) -> dict[str, Tensor]:
        """The weights by name; empty where the description says all."""


@dataclass(frozen=True)
class PixelTokenizer:
    """One token per pixel: its grey level, 0 to levels - 1, or the nearest of as many colours (0 to 255)."""

    levels: int
    grid: tuple[int, int]
    colours: tuple[tuple[float, ...], ...] = ()  # one for each level; without, evenly spaced greys

    def __post_init__(self) -> None:
        """Refuse numbers that no picture has, and a palette that does not fit.

        Raises:
            ValueError: says why.
        """
        check_sizes(self, "levels", least=2, most=MOST_WORDS)
        check_grid(self.grid)
        if not all(LOWEST <= value <= HIGHEST for colour in self.colours for value in colour):
            raise ValueError(f"colours {shown(self.colours)}: each value must be between 0 and 255")
        if self.colours and not 1 <= len(self.colours[0]) <= MOST_CHANNELS:
            raise ValueError(f"colours {shown(self.colours)}: must have 1 to {MOST_CHANNELS} channels")
        if self.colours and (len(self.colours) != self.levels or len({len(colour) for colour in self.colours}) != 1):
            raise ValueError(f"{len(self.colours)} colours for {self.levels} levels: need one each, of equal channels")

    @classmethod
    def of_clusters(cls, clusters: NDArray[np.floating], grid: tuple[int, int]) -> PixelTokenizer:
        """The palette of colour clusters (K, C) with values in [-1, 1], as ImageGPT's processor holds them."""
        colours = np.asarray(clusters, dtype=np.float64) * 127.5 + 127.5
        return cls(len(colours), grid, tuple(tuple(float(value) for value in colour) for colour in colours))

    @property
    def vocabulary(self) -> int:
        return self.levels

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def picture(self) -> tuple[int, int, int]:
        return (*self.grid, len(self.colours[0]) if self.colours else 1)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, h, w, C); grey ones may also be (N, h, w)."""
        if self.picture[2] == 1 and images.ndim == 3:
            images = images[..., None]
        distances = self.length * self.levels * self.picture[2]
        return encode_images(self, images, max(1, DISTANCES_AT_ONCE // distances))

    def decode(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, h, w, C) of tokens (N, T)."""
        return self.palette()[tokens].reshape(len(tokens), *self.picture)

    def values(self) -> NDArray[np.float32]:
        """Each level's colour (K, C), 0 to 255, not rounded."""
        if self.colours:
            return np.array(self.colours, dtype=np.float32)
        return (np.arange(self.levels) * (255 / (self.levels - 1))).astype(np.float32)[:, None]

    def palette(self) -> NDArray[np.uint8]:
        """Each level's colour (K, C)."""
        return rounded(self.values())

    def decoder(self) -> nn.Module:
        return PaletteDecoder(self.values(), self.grid)

    def encoder(self) -> nn.Module | None:
        return PaletteEncoder(self.values())

    def describe(self) -> dict[str, Any]:
        found = {"kind": "pixels", "levels": self.levels, "grid": list(self.grid)}
        return {**found, "colours": plain(self.colours)} if self.colours else found

    def state(self) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True)
class VqTokenizer:
    """One token per place of an autoencoder's latent grid, or of every scale's."""

    autoencoder: Autoencoder
    grid: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse a grid that the autoencoder does not have.

        Raises:
            ValueError: says which it must be.
        """
        check_grid(self.grid)
        self.autoencoder.code_shape(self.grid)

    @property
    def vocabulary(self) -> int:
        return self.autoencoder.config.codes

    @property
    def length(self) -> int:
        return prod(self.autoencoder.code_shape(self.grid))

    @property
    def picture(self) -> tuple[int, int, int]:
        return (*self.autoencoder.size_of(self.grid), 3)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, 3)."""
        return encode_images(self, images, at_once(self.picture))

    def decode(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, H, W, 3) of tokens (N, T)."""
        return decode_tokens(self, tokens, at_once(self.picture))

    def decoder(self) -> nn.Module:
        return VqDecoder(self.autoencoder, self.autoencoder.code_shape(self.grid))

    def encoder(self) -> nn.Module | None:
        return VqEncoder(self.autoencoder) if self.autoencoder.can_encode else None

    def describe(self) -> dict[str, Any]:
        kind = next(kind for kind, (_, made) in AUTOENCODERS.items() if isinstance(self.autoencoder, made))
        return {"kind": kind, "autoencoder": plain(self.autoencoder.config), "grid": list(self.grid)}

    def state(self) -> dict[str, Tensor]:
        return dict(self.autoencoder.state_dict())


AUTOENCODERS: dict[str, tuple[type[Any], type[Autoencoder]]] = {
    "vq": (VqConfig, VqAutoencoder),
    "titok": (TitokConfig, TitokAutoencoder),
}


def at_once(picture: tuple[int, int, int]) -> int:
    """Pictures that an autoencoder may take together."""
    return max(1, PIXELS_AT_ONCE // (picture[0] * picture[1]))


def device_of(module: nn.Module) -> torch.device:
    """Where the module's weights lie."""
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def encode_images(tokenizer: Tokenizer, images: NDArray[np.uint8], batch: int) -> NDArray[np.int64]:
    """Tokens (N, T) of pictures (N, H, W, C) by the tokenizer's encoder, `batch` at a time.

    Raises:
        ValueError: the pictures have another size, or the tokenizer only decodes.
    """
    if images.shape[1:] != tokenizer.picture:
        raise ValueError(f"pictures are {images.shape[1:]}; the tokenizer's are {tokenizer.picture}")
    encoder = tokenizer.encoder()
    if encoder is None:
        raise ValueError("this tokenizer only decodes: its checkpoint held no encoder")
    device = device_of(encoder)
    found = np.empty((len(images), tokenizer.length), dtype=np.int64)
    with torch.no_grad():
        for start in range(0, len(images), batch):
            part = torch.from_numpy(np.ascontiguousarray(images[start : start + batch])).to(device)
            found[start : start + batch] = encoder(part).cpu().numpy()
    return found


def decode_tokens(tokenizer: Tokenizer, tokens: NDArray[np.int64], batch: int) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) of tokens (N, T) by the tokenizer's decoder, `batch` at a time.

    Raises:
        ValueError: there is another number of tokens per picture.
    """
    if tokens.shape[1:] != (tokenizer.length,):
        raise ValueError(f"tokens are {tokens.shape}; the tokenizer's pictures have {tokenizer.length}")
    decoder = tokenizer.decoder()
    device = device_of(decoder)
    found = np.empty((len(tokens), *tokenizer.picture), dtype=np.uint8)
    with torch.no_grad():
        for start in range(0, len(tokens), batch):
            part = torch.from_numpy(np.ascontiguousarray(tokens[start : start + batch])).to(device)
            found[start : start + batch] = decoder(part)[0].cpu().numpy()
    return found


def build(description: Mapping[str, Any], state: Mapping[str, Tensor], where: str = "tokenizer") -> Tokenizer:
    """The tokenizer that `describe` and `state` came from; `where` names the place in messages.

    Raises:
        InputError: an unknown kind, a wrong setting, or weights that are not what the description says.
    """
    kind = description.get("kind")
    settings = {name: value for name, value in description.items() if name != "kind"}
    if kind == "pixels":
        return parse(PixelTokenizer, settings, where)
    if not isinstance(kind, str) or kind not in AUTOENCODERS:
        raise InputError(
            f"{where}.kind: {shown(kind)} is not a tokenizer; {nearest(str(kind), ['pixels', *AUTOENCODERS])}"
        )
    form = parse(Description, settings, where)
    config_type, autoencoder_type = AUTOENCODERS[kind]
    config = parse(config_type, form.autoencoder, f"{where}.autoencoder")
    try:
        with torch.device("meta"):
            autoencoder = autoencoder_type(config)
        fill(autoencoder, state.items(), Path(where))
        return VqTokenizer(autoencoder.eval(), form.grid)
    except (ValueError, ArithmeticError, RuntimeError, TypeError) as error:  # numbers that no tensor can have
        raise InputError(f"{where}: {error}") from error


@dataclass(frozen=True)
class Description:
    """What a VqTokenizer says of itself."""

    autoencoder: dict[str, Any]
    grid: tuple[int, int]
