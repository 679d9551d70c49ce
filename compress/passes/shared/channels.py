"""Which tensors carry the channels of the residual stream, and the narrower model that remains without some of them.

A channel is one number of the stream at every depth. It is a column of every table that the stream begins with
(embedding, positions, registers), a row of every layer that writes into the stream, a column of every layer that reads
it, and an entry of every norm and of every vector that scales, shifts or gates it. A class is embedded in the same
table, so its vector, which modulates, has the same channels. What is inside of a block keeps its width: heads,
feed-forward units, and the layers of a text.

Letters: D channels, n those that are kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.pruning import filled

BLOCK = r"blocks\.\d+\."
TABLES = r"embedding\.weight|position\.weight|moment\.weight|registers"
NORMS = rf"(embedding_norm|norm|{BLOCK}(attention|ffn|text)_norm(\.norm)?)\.(weight|bias)"
PREFIX = r"text\.down\.weight"  # of a text that stands before the picture; in a U-ViT it makes the text's vector
WRITERS = rf"merge\.weight|latent\.\w+|stem\.leave\.weight|{BLOCK}(attention\.output|ffn\.down|text\.output)\.\w+"
READERS = (
    r"merge\.weight|divide\.weight|head\.weight|tail\.enter\.weight|"
    rf"{BLOCK}(attention\.(query|key|value)|ffn\.(gate|up)|text\.query)\.weight"
)
CONDITIONED = rf"(shared|final_modulation\.linear|{BLOCK}modulation\.linear)\.weight"  # they read a class's vector
SIXFOLD = rf"(shared|{BLOCK}modulation(\.linear)?)\.(weight|bias|table)"  # shift, scale and gate of two branches
TWOFOLD = rf"(final_modulation|{BLOCK}\w+_norm\.modulation)\.linear\.(weight|bias)"  # shift and scale


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor along which channels lie: channel d owns entries ((part * D) + d) * each + e."""

    name: str
    axis: int
    parts: int = 1
    each: int = 1


def channel_axes(transformer: TokenTransformer) -> list[Axis]:
    """Every axis of every tensor of a transformer along which the channels of its stream lie."""
    config, found = transformer.config, []
    apart = ("embedding.weight", "head.weight") if config.uvit else ()  # tokens have a width of their own there
    patterns = [
        (TABLES, 1, 1),
        (NORMS, 0, 1),
        (WRITERS if config.uvit else rf"{PREFIX}|{WRITERS}", 0, 1),
        (READERS, 1, 1),
        (CONDITIONED, 1, 1),
        (SIXFOLD, 0, 6),
        (TWOFOLD, 0, 2),
    ]
    for name in transformer.state_dict():
        found += [
            Axis(name, axis, parts)
            for pattern, axis, parts in patterns
            if name not in apart and re.fullmatch(pattern, name)
        ]
        if name == "divide.weight":
            found.append(Axis(name, 0, each=config.patch**2))
    return found


def is_writer(name: str) -> bool:
    """Whether a tensor is a weight or a bias of a layer that writes into the stream, of a model that is no U-ViT."""
    return re.fullmatch(rf"{PREFIX}|{WRITERS}", name) is not None


def narrowed(config: TransformerConfig, width: int) -> TransformerConfig:
    """The same architecture with so many channels; norms without a gain get one, because it has to be corrected."""
    if width == config.width:
        return config
    inner = config.inner if config.text else 0
    return replace(config, width=width, norm_affine=True, final_affine=True, text_inner=inner)


def keep_channels(transformer: TokenTransformer, kept: Tensor) -> TokenTransformer:
    """A transformer with only these channels (n,) of the stream; gains that it did not have are 1, and shifts 0."""
    config, state = transformer.config, dict(transformer.state_dict())
    for place in channel_axes(transformer):
        rows = torch.arange(state[place.name].shape[place.axis]).view(place.parts, config.width, place.each)
        state[place.name] = state[place.name].index_select(place.axis, rows[:, kept].flatten())
    smaller = narrowed(config, len(kept))
    if smaller != config:
        for name, value in TokenTransformer(smaller).state_dict().items():
            if name not in state:
                state[name] = torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value)
    return filled(smaller, state)


def turned(transformer: TokenTransformer, basis: Tensor) -> TokenTransformer:
    """A transformer whose stream is the old one in another orthonormal basis, the columns of (D, D).

    It computes the same where norms are RMSNorm without gains.
    """
    state = dict(transformer.state_dict())
    for place in channel_axes(transformer):
        tensor = state[place.name].double().movedim(place.axis, -1)
        apart = tensor.unflatten(-1, (place.parts, len(basis), place.each))
        made = torch.einsum("...pde,dn->...pne", apart, basis)
        state[place.name] = made.flatten(-3).movedim(-1, place.axis).float()
    return filled(transformer.config, state)
