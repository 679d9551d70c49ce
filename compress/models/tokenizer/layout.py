"""Where published autoencoders keep their weights: the architecture that names imply, and the tensors by our names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.checkpoints.filling import FLOATS, words, words_of
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.pictures import Autoencoder
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig

SIDE = 1024  # tokens along one side of a picture, at most
PUBLISHED_SIDE = 256  # pixels, where a checkpoint's config does not say
QUERY_KEY_VALUE = ("query", "key", "value")


@dataclass(frozen=True)
class Layout:
    """Published names, with {} for a number; those of blocks and the middle are relative to their level or side."""

    format: str  # begins every message
    encoder_level: str
    decoder_level: str
    block: str
    attention: str
    downsample: str
    upsample: str
    middle_blocks: tuple[str, str]
    middle_attention: str
    parts: Mapping[str, str]  # our name of a layer in a block or attention to the published one, where they differ
    finest_first: bool  # the decoder's levels are numbered by resolution, and not in order of execution
    norm: str = "norm_out"
    fused: str = ""  # the one convolution that makes query, key and value


class Tensors:
    """A state dict whose tensors are read once each; it remembers which were, so that nothing is left unread."""

    def __init__(self, state: Mapping[str, Tensor], format_name: str, prefix: str = "") -> None:
        self.state = state
        self.format = format_name
        self.prefix = prefix
        self.held: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.state

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name.

        Raises:
            InputError: there is none, or it is not of floats.
        """
        if name not in self.held:
            if name not in self:
                raise InputError(f"{self.format}: tensor '{self.prefix + name}' is missing")
            tensor = self.state[self.prefix + name]
            if tensor.dtype not in FLOATS:
                raise InputError(
                    f"{self.format}: tensor '{self.prefix + name}' is {words(tensor.dtype)}; "
                    f"weights are {words_of(FLOATS)}"
                )
            self.held[name] = tensor
        return self.held[name]

    def shape(self, name: str, *ranks: int) -> tuple[int, ...]:
        """A tensor's shape, of one of these numbers of axes, none of them empty.

        Raises:
            InputError: it has another number of axes, or no numbers.
        """
        shape = tuple(self[name].shape)
        if len(shape) not in ranks or 0 in shape:
            wanted = " or ".join(map(str, ranks))
            raise InputError(
                f"{self.format}: tensor '{self.prefix + name}' is {shape}; "
                f"a model's has {wanted} axes, none of them empty"
            )
        return shape

    def width(self, name: str) -> int:
        """The output channels of a layer's weight."""
        return self.shape(f"{name}.weight", 2, 4)[0]

    def has(self, module: str) -> bool:
        """Whether there is any weight of a module."""
        return any(name.startswith(f"{self.prefix}{module}.") for name in self.state)

    def count(self, template: str) -> int:
        """How many there are of a numbered module, by the highest number, so that what lies below it is missed."""
        pattern = re.compile(re.escape(f"{self.prefix}{template}.").replace(re.escape("{}"), r"([0-9]{1,6})"))
        found = {int(match[1]) for name in self.state if (match := pattern.match(name))}
        count = 1 + max(found, default=-1)
        if count > len(self.state):
            raise InputError(f"{self.format}: a tensor's name begins with '{self.prefix}{template.format(count - 1)}.'")
        return count

    def check_all_read(self, ignored: Callable[[str], bool]) -> None:
        """Refuse tensors that nothing has asked for.

        Raises:
            InputError: names the first.
        """
        for name in self.state:
            bare = name.removeprefix(self.prefix)
            if name.startswith(self.prefix) and bare not in self.held and not ignored(bare):
                raise InputError(f"{self.format}: tensor '{name}' is not part of the model that the others describe")


@dataclass(frozen=True)
class Side:
    """What the names and shapes say of an encoder or a decoder."""

    channels: tuple[int, ...]  # from full resolution down
    blocks: int
    attention_levels: tuple[int, ...]


def side(tensors: Tensors, layout: Layout, template: str, *, finest_first: bool) -> Side:
    """Read one side's architecture from its names; every level has as many blocks as the first that is numbered."""
    levels = tensors.count(template)
    blocks = tensors.count(f"{template.format(0)}.{layout.block}")
    names = [template.format(level) for level in range(levels)]
    if not finest_first:
        names.reverse()
    return Side(
        tuple(tensors.width(f"{name}.{layout.block.format(0)}.conv1") for name in names),
        blocks,
        tuple(i for i, name in enumerate(names) if tensors.has(f"{name}.{layout.attention.format(0)}")),
    )


def infer(tensors: Tensors, layout: Layout, **known: Any) -> VqConfig:
    """The config that names and shapes imply; `known` are the fields that they cannot.

    Raises:
        InputError: a tensor is missing, or the numbers are of no autoencoder.
    """
    decoder = side(tensors, layout, layout.decoder_level, finest_first=layout.finest_first)
    encoder = Side((), 1, decoder.attention_levels)
    stem, head_kernel = 0, 3
    if tensors.has("encoder"):
        encoder = side(tensors, layout, layout.encoder_level, finest_first=True)
        stem = tensors.width("encoder.conv_in")
        head_kernel = tensors.shape("encoder.conv_out.weight", 4)[2]
    if encoder.attention_levels != decoder.attention_levels:
        raise InputError(
            f"{layout.format}: the encoder has attention in levels {encoder.attention_levels} and the decoder in "
            f"{decoder.attention_levels}; they must be the same"
        )
    codes, code_width = tensors.shape("quantize.embedding.weight", 2)
    quant_kernel = tensors.shape("post_quant_conv.weight", 4)[2] if tensors.has("post_quant_conv") else 0
    fields = {
        "codes": codes,
        "code_width": code_width,
        "latent_width": tensors.shape("decoder.conv_in.weight", 4)[1],
        "encoder_channels": encoder.channels,
        "decoder_channels": decoder.channels,
        "encoder_blocks": encoder.blocks,
        "decoder_blocks": decoder.blocks,
        "stem_width": 0 if encoder.channels[:1] in ((), (stem,)) else stem,
        "attention_levels": decoder.attention_levels,
        "middle_attention": bool(layout.middle_attention) and tensors.has(f"decoder.{layout.middle_attention}"),
        "quant_kernel": quant_kernel,
        "head_kernel": head_kernel,
    }
    try:
        return VqConfig(**{**fields, **known})
    except ValueError as error:
        raise InputError(f"{layout.format}: {error}") from error


def module_names(layout: Layout, config: VqConfig) -> dict[str, str]:
    """Our name of every module with weights to the published one, for blocks and attention up to their layers."""
    names = {
        "before_codes": "quant_conv",
        "after_codes": "post_quant_conv",
        "quantizer.embedding": "quantize.embedding",
        "quantizer.codebook.embedding": "quantize.embedding",
    }
    sides: Iterable[tuple[str, str, int]] = (
        ("encoder", layout.encoder_level, config.encoder_blocks),
        ("decoder", layout.decoder_level, config.decoder_blocks),
    )
    for name, template, blocks in sides:
        names |= {f"{name}.stem": f"{name}.conv_in", f"{name}.head": f"{name}.conv_out"}
        names[f"{name}.norm"] = f"{name}.{layout.norm}"
        for index, block in enumerate(layout.middle_blocks):
            names[f"{name}.middle.blocks.{index}"] = f"{name}.{block}"
        names[f"{name}.middle.attentions.0"] = f"{name}.{layout.middle_attention}"
        for level in range(config.levels):
            mirrored = name == "decoder" and layout.finest_first
            place = template.format(config.levels - 1 - level if mirrored else level)
            for block_index in range(blocks):
                ours = f"{name}.levels.{level}"
                names[f"{ours}.blocks.{block_index}"] = f"{place}.{layout.block.format(block_index)}"
                names[f"{ours}.attentions.{block_index}"] = f"{place}.{layout.attention.format(block_index)}"
            resample = layout.downsample if name == "encoder" else layout.upsample
            names[f"{name}.levels.{level}.resample.conv"] = f"{place}.{resample}"
    return names


@dataclass(frozen=True)
class Source:
    """A published tensor, or one of the equal parts that its rows hold."""

    name: str
    part: int = 0
    parts: int = 1


def source(name: str, modules: Mapping[str, str], layout: Layout) -> Source:
    """Where our tensor of this name comes from."""
    module, _, leaf = name.rpartition(".")
    if module in modules:
        return Source(f"{modules[module]}.{leaf}")
    place, _, part = module.rpartition(".")
    if layout.fused and part in QUERY_KEY_VALUE:
        index = QUERY_KEY_VALUE.index(part)
        return Source(f"{modules[place]}.{layout.fused}.{leaf}", index, len(QUERY_KEY_VALUE))
    return Source(f"{modules[place]}.{layout.parts.get(part, part)}.{leaf}")


def convert(
    tensors: Tensors, layout: Layout, config: VqConfig, extra: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The checkpoint's tensors by our names, as fp32; `extra` are further modules' names.

    Raises:
        InputError: the first tensor that is missing, of another shape, or not finite.
    """
    modules = {**module_names(layout, config), **(extra or {})}
    with torch.device("meta"):
        wanted = VqAutoencoder(config).state_dict()
    found = {}
    for name, like in wanted.items():
        origin = source(name, modules, layout)
        found[name] = take(tensors, origin, like)
    return found


def take(tensors: Tensors, origin: Source, like: Tensor) -> Tensor:
    """One tensor in our shape: 1x1 convolutions of attention are linear layers here."""
    tensor = tensors[origin.name]
    if origin.parts > 1:
        tensors.shape(origin.name, 1, 2, 4)
    rows = tensor.shape[0] // origin.parts if tensor.dim() else 0
    part = tensor[origin.part * rows : (origin.part + 1) * rows] if origin.parts > 1 else tensor
    shape = part.shape[:2] if part.dim() == 4 and like.dim() == 2 and part.shape[2:] == (1, 1) else part.shape
    if shape != like.shape or rows * origin.parts != (tensor.shape[0] if tensor.dim() else 0):
        wanted = (like.shape[0] * origin.parts, *like.shape[1:])
        raise InputError(
            f"{tensors.format}: tensor '{tensors.prefix + origin.name}' is {tuple(tensor.shape)}; "
            f"the shapes of the others say {wanted}"
        )
    if not part.is_meta and not torch.isfinite(part).all():
        raise InputError(
            f"{tensors.format}: tensor '{tensors.prefix + origin.name}' holds NaN or Inf; the checkpoint is unusable"
        )
    return part.reshape(like.shape).to(torch.float32)


def grid_of(config: Mapping[str, Any], factor: int, format_name: str) -> tuple[int, int]:
    """The token grid by `grid` or by the picture's size, else that of the published pictures of 256 pixels.

    Raises:
        InputError: it is no pair of whole numbers, or the size is no multiple of the factor.
    """
    grid = config.get("grid")
    if grid is not None:
        if (
            not isinstance(grid, (list, tuple))
            or len(grid) != 2
            or not all(type(n) is int and 0 < n <= SIDE for n in grid)
        ):
            raise InputError(
                f"{format_name}: grid: {shown(grid)} is not a pair of whole numbers; write [rows, columns]"
            )
        return int(grid[0]), int(grid[1])
    key = next((key for key in ("image_size", "resolution") if config.get(key) is not None), None)
    size = PUBLISHED_SIDE if key is None else config[key]
    if type(size) is not int or not factor <= size <= SIDE * factor or size % factor:
        raise InputError(
            f"{format_name}: {key}: {shown(size)} is not a multiple of {factor} pixels, the size of a token"
        )
    return size // factor, size // factor


def truth(value: object, format_name: str, key: str) -> bool:
    """A setting that is true or false.

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{format_name}: {key}: {shown(value)} is not true or false")
    return value


def whole(value: object, format_name: str, key: str) -> int:
    """A setting that is a whole number of at least 1.

    Raises:
        InputError: it is something else.
    """
    if type(value) is not int or value < 1:
        raise InputError(f"{format_name}: {key}: {shown(value)} is not a whole number of at least 1")
    return value


def with_weights(
    autoencoder: Autoencoder, weights: Mapping[str, Tensor], grid: tuple[int, int], format_name: str
) -> VqTokenizer:
    """The tokenizer of an autoencoder with these weights.

    Raises:
        InputError: the grid is not one that the autoencoder has.
    """
    if not any(tensor.is_meta for tensor in weights.values()):  # else names and shapes were all that was asked for
        autoencoder.load_state_dict(dict(weights))
    autoencoder.eval()
    try:
        return VqTokenizer(autoencoder, grid)
    except ValueError as error:
        raise InputError(f"{format_name}: {error}") from error
