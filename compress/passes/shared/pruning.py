"""What structured pruning removes together, how much of it, and the smaller model that remains.

A group is everything that carries one unit of a layer: for a head its query rows, its key and value rows and its output
columns (with grouped-query attention: the key/value head and all query heads that read it); for a feed-forward unit its
gate row, up row, biases and down column. Removing a whole group changes nothing but what that unit contributed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.models.image_model import ImageModel
from compress.models.transformer.architecture import GATED, STRETCHED, LayerConfig, TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import quantizations
from compress.passes import PassError


@dataclass(frozen=True)
class Member:
    """A tensor's part in the groups: group g owns indices g * width to (g + 1) * width - 1 of this axis."""

    name: str
    axis: int
    width: int


@dataclass(frozen=True)
class Structure:
    """A kind of group: how many a layer has, what belongs to each, and the linear that reads them all."""

    noun: str
    exit: str
    count: Callable[[LayerConfig], int]
    members: Callable[[TransformerConfig, LayerConfig], tuple[Member, ...]]
    narrowed: Callable[[LayerConfig, int], LayerConfig]


def head_members(config: TransformerConfig, layer: LayerConfig) -> tuple[Member, ...]:
    """The tensors of attention, by key/value head.

    With qk-norm ``rms``, which normalises over all heads together, what remains is normalised over the remaining heads;
    `head_norm` sets that right.
    """
    own = config.head_width
    shared = own * (layer.heads // layer.kv_heads)
    rows = {"query": shared, "key": own, "value": own}
    kinds = ("weight", "bias") if config.bias else ("weight",)
    entries = [Member(f"attention.{name}.{kind}", 0, width) for name, width in rows.items() for kind in kinds]
    if config.qk_norm in STRETCHED:
        entries.append(Member("attention.stretch", 0, layer.heads // layer.kv_heads))
    return (*entries, Member("attention.output.weight", 1, shared))


def unit_members(config: TransformerConfig, layer: LayerConfig) -> tuple[Member, ...]:
    """The tensors of the feed-forward network, by unit."""
    names = ("gate", "up") if config.activation in GATED else ("up",)
    kinds = ("weight", "bias") if config.bias else ("weight",)
    return (*(Member(f"ffn.{name}.{kind}", 0, 1) for name in names for kind in kinds), Member("ffn.down.weight", 1, 1))


HEADS = Structure(
    noun="heads",
    exit="attention.output",
    count=lambda layer: layer.kv_heads,
    members=head_members,
    narrowed=lambda layer, kept: replace(layer, heads=kept * (layer.heads // layer.kv_heads), kv_heads=kept),
)
UNITS = Structure(
    noun="units",
    exit="ffn.down",
    count=lambda layer: layer.ffn,
    members=unit_members,
    narrowed=lambda layer, kept: replace(layer, ffn=kept),
)


def check_float(model: ImageModel, name: str) -> None:
    """Refuse a quantized model: its scales belong to whole rows and groups.

    Raises:
        PassError: says that pruning comes first.
    """
    quantized = quantizations(model.transformer)
    if quantized:
        raise PassError(f"the model has {len(quantized)} quantized layers; put {name} before quantize")


def check_units(model: ImageModel, name: str) -> None:
    """Refuse a model whose ffn.down reads rotated units: none of them can go alone.

    Raises:
        PassError: says that pruning comes first.
    """
    if block := model.transformer.config.down_rotation:
        raise PassError(f"ffn.down reads its units rotated in blocks of {block}; put {name} before rotate")


def check_per_layer(noun: str, counts: Sequence[int], ratio: float) -> None:
    """Refuse a share that leaves a layer no group, where every layer loses it.

    Raises:
        PassError: names the layer, and a ratio that works.
    """
    for index, count in enumerate(counts):
        if round(ratio * count) >= count:
            most = (count - 1) / count
            raise PassError(f"layer {index} has {count} {noun}; ratio {ratio:g} would leave none; {at_most(most)}")


def check_globally(noun: str, counts: Sequence[int], ratio: float) -> None:
    """Refuse a share of all layers' groups together that leaves a layer none; every layer keeps its best.

    Raises:
        PassError: says a ratio that works.
    """
    total, spare = sum(counts), sum(counts) - len(counts)
    if round(ratio * total) > spare:
        raise PassError(
            f"{len(counts)} layers have {total} {noun} in all; ratio {ratio:g} would leave a layer none; "
            f"{at_most(spare / total)}"
        )


def kept_per_layer(counts: Sequence[int], ratio: float, multiple: int = 1) -> list[int]:
    """Groups that each layer keeps when every layer loses the same share."""
    return [to_multiple(count - round(ratio * count), multiple, count) for count in counts]


def kept_globally(scores: Sequence[Tensor], ratio: float, multiple: int = 1) -> list[int]:
    """Groups that each layer keeps when the least important of the whole model go; every layer keeps its best."""
    counts = [len(layer) for layer in scores]
    removed = round(ratio * sum(counts))
    rest = torch.cat([layer.sort().values[:-1] for layer in scores])
    of_layer = torch.cat([torch.full((count - 1,), index) for index, count in enumerate(counts)])
    gone = of_layer[rest.argsort(stable=True)[:removed]].bincount(minlength=len(counts)).tolist()
    return [to_multiple(count - lost, multiple, count) for count, lost in zip(counts, gone, strict=True)]


def at_most(share: float) -> str:
    """The advice that ends a message, rounded down so that following it works."""
    return f"use at most {int(share * 100) / 100:g}"


def to_multiple(kept: int, multiple: int, most: int) -> int:
    """The multiple nearest to `kept`, at least one of it and never more groups than there are; all stay all."""
    return most if kept == most else min(most, max(multiple, multiple * round(kept / multiple)))


def best(scores: Sequence[Tensor], kept: Sequence[int]) -> list[Tensor]:
    """Indices of the highest scores of each layer, in their order in the layer."""
    return [
        layer.argsort(descending=True, stable=True)[:count].sort().values
        for layer, count in zip(scores, kept, strict=True)
    ]


def keep_groups(transformer: TokenTransformer, structure: Structure, kept: Sequence[Tensor]) -> TokenTransformer:
    """A smaller transformer with only these groups (indices for each layer) of a structure."""
    config, state = transformer.config, dict(transformer.state_dict())
    for index, (layer, groups) in enumerate(zip(config.layers, kept, strict=True)):
        for member in structure.members(config, layer):
            name = f"blocks.{index}.{member.name}"
            rows = (groups[:, None] * member.width + torch.arange(member.width)).flatten()
            state[name] = state[name].index_select(member.axis, rows)
    layers = [structure.narrowed(layer, len(groups)) for layer, groups in zip(config.layers, kept, strict=True)]
    return filled(config.with_layers(layers), state)


def keep_layers(transformer: TokenTransformer, kept: Sequence[int]) -> TokenTransformer:
    """A shallower transformer with only these layers, in this order."""
    old, state = transformer.state_dict(), {}
    for name, value in old.items():
        if not name.startswith("blocks."):
            state[name] = value
    for new, index in enumerate(kept):
        prefix = f"blocks.{index}."
        state |= {
            f"blocks.{new}.{name[len(prefix) :]}": value for name, value in old.items() if name.startswith(prefix)
        }
    return filled(transformer.config.with_layers([transformer.config.layers[index] for index in kept]), state)


def filled(config: TransformerConfig, state: dict[str, Tensor]) -> TokenTransformer:
    """A transformer of this config with copies of these weights, ready to score."""
    transformer = TokenTransformer(config)
    transformer.load_state_dict(state)
    return transformer.eval()
