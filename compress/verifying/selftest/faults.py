"""Faults that are planted on purpose, each into a copy of a sound model.

Every one is a mistake that has been made in ports and exports of image-token transformers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from compress.models.image_model import ImageModel, TorchRunner
from compress.models.tokenizer.model import PixelTokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.blocks import Block, KeyValue
from compress.models.transformer.model import TokenTransformer
from export.runtime.sampling import Sampler

Base = Literal["shipped", "rotary", "modulated", "untrained"]
WEIGHT_NOISE = 0.005
WRONG_SCALE = 1.05
STALE_STEPS = 3  # from this step on a stale cache repeats its last row


@dataclass(frozen=True)
class Fault:
    """A fault: its name, the sound model it is planted into, and the layer that must be named ('': it has none)."""

    name: str
    base: Base
    plant: Callable[[ImageModel], ImageModel]
    where: Callable[[ImageModel], str]


def middle(model: ImageModel) -> int:
    """The layer that faults are planted into."""
    return len(model.transformer.blocks) // 2


def block(model: ImageModel) -> Block:
    """That layer."""
    found = model.transformer.blocks[middle(model)]
    assert isinstance(found, Block)
    return found


def at_middle(model: ImageModel) -> str:
    """Its name."""
    return f"blocks.{middle(model)}"


def copied(model: ImageModel) -> ImageModel:
    """The same model with weights of its own."""
    return model.with_transformer(copy.deepcopy(model.transformer))


def heads_swapped(model: ImageModel) -> ImageModel:
    """The queries of two heads change places in one layer."""
    made = copied(model)
    weight = block(made).attention.query.weight.data
    width = made.transformer.config.head_width
    weight[: 2 * width] = torch.cat([weight[width : 2 * width], weight[:width]])
    return made


def wrong_scale(model: ImageModel) -> ImageModel:
    """One matrix of one layer has a scale that is 5 % too large."""
    made = copied(model)
    block(made).ffn.down.weight.data.mul_(WRONG_SCALE)
    return made


def positions_off_by_one(model: ImageModel) -> ImageModel:
    """Every position is taken for the next one."""
    made = copied(model)
    transformer = made.transformer
    if transformer.config.positions == "learned":
        transformer.position.weight.data.copy_(transformer.position.weight.data.roll(-1, 0))
    else:
        transformer.cosine, transformer.sine = transformer.cosine.roll(-1, 0), transformer.sine.roll(-1, 0)
    return made


def read_first(model: ImageModel) -> str:
    """Where positions are first read: the embedding, or the first layer's rotation."""
    return "embedding" if model.transformer.config.positions == "learned" else "blocks.0"


def guidance_dropped(model: ImageModel) -> ImageModel:
    """The model draws without guidance."""
    return replace(model, sampler=model.sampler.changed(cfg_scale=1.0))


def cache_stale(model: ImageModel) -> ImageModel:
    """The loop writes one layer's keys and values of an earlier step instead of the new ones."""
    return StaleModel(**{name: getattr(model, name) for name in model.__dataclass_fields__})


class StaleModel(ImageModel):
    """A model whose loop forgets to write one layer's cache."""

    def runner(self) -> TorchRunner:
        """The faulty loop."""
        return StaleRunner(self.transformer, middle(self))


class StaleRunner(TorchRunner):
    """Repeats the last row of one layer's cache."""

    def __init__(self, transformer: TokenTransformer, layer: int) -> None:
        super().__init__(transformer)
        self.layer = layer

    def advance(self, tokens: torch.Tensor) -> NDArray[np.float32]:
        """One call, after which a row of the cache is not the one that it should be."""
        before = self.past[self.layer]
        logits = super().advance(tokens)
        if before.key.shape[2] >= STALE_STEPS:
            old = [torch.cat([part, part[:, :, -1:].expand(-1, -1, tokens.shape[1], -1)], dim=2) for part in before]
            self.past[self.layer] = KeyValue(*old)
        return logits


def prefix_rotated(model: ImageModel) -> ImageModel:
    """The rotary row of the prefix, which LlamaGen leaves at 0, is 'mended' to the identity."""
    config = replace(model.transformer.config, rotary_prefix="identity")
    made = TokenTransformer(config)
    made.load_state_dict(model.transformer.state_dict())
    return model.with_transformer(made.eval().requires_grad_(False))


def shift_and_scale_swapped(model: ImageModel) -> ImageModel:
    """One layer's modulation takes the shift for the scale."""
    made = copied(model)
    modulation = block(made).modulation
    assert modulation is not None
    linear = modulation.linear
    width = made.transformer.config.width
    for part in (linear.weight.data, linear.bias.data):
        part[: 2 * width] = torch.cat([part[width : 2 * width], part[:width]])
    return made


def weights_noisy(model: ImageModel) -> ImageModel:
    """Every weight is off by half a percent, at random."""
    made, generator = copied(model), torch.Generator().manual_seed(0)
    for parameter in made.transformer.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.mul_(1 + WEIGHT_NOISE * noise)
    return made


def head_untrained(model: ImageModel) -> ImageModel:
    """Layers are wholly different, but the head of both is at its zero beginning, so no prediction differs."""
    made = copied(model)
    for parameter in made.transformer.blocks.parameters():
        parameter.data.mul_(-1)
    return made


def nowhere(model: ImageModel) -> str:
    """The fault is in no layer."""
    return ""


FAULTS = (
    Fault("two heads swapped", "shipped", heads_swapped, at_middle),
    Fault("wrong scale in one layer", "shipped", wrong_scale, at_middle),
    Fault("positions off by one", "shipped", positions_off_by_one, read_first),
    Fault("guidance dropped", "shipped", guidance_dropped, nowhere),
    Fault("stale KV cache", "shipped", cache_stale, at_middle),
    Fault("rotary row of the prefix mended", "rotary", prefix_rotated, lambda model: "blocks.0"),
    Fault("AdaLN shift and scale swapped", "modulated", shift_and_scale_swapped, at_middle),
    Fault("0.5 % weight noise", "shipped", weights_noisy, lambda model: "embedding"),
    Fault("flat logits of an untrained head", "untrained", head_untrained, nowhere),
)


def built(base: Base) -> ImageModel:
    """A small model of 4 x 4 tokens with random weights that hold opinions, of a kind that no shipped one is."""
    config = TransformerConfig(
        vocabulary=17, classes=10, grid=(4, 4), width=32, head_width=8, layers=(LayerConfig(4, 4, 48),) * 3
    )
    if base == "rotary":
        config = replace(config, rotary_prefix="zero")
    elif base == "modulated":
        config = replace(config, positions="learned", modulation="class")
    transformer, generator = TokenTransformer(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            noise = 0.25 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
        if base == "untrained":
            transformer.head.weight.zero_()
    transformer.eval().requires_grad_(False)
    return ImageModel(base, "reference", transformer, PixelTokenizer(17, (4, 4)), Sampler(cfg_scale=1.5))
