"""The VQModel of diffusers, as aMUSEd (arXiv 2401.01808) uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.tokenizer.layout import Layout, Tensors, convert, grid_of, infer, truth, whole, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.vq import VqAutoencoder

LAYOUT = Layout(
    format="diffusers-vq",
    encoder_level="encoder.down_blocks.{}",
    decoder_level="decoder.up_blocks.{}",
    block="resnets.{}",
    attention="attentions.{}",
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    middle_blocks=("mid_block.resnets.0", "mid_block.resnets.1"),
    middle_attention="mid_block.attentions.0",
    parts={
        "shortcut": "conv_shortcut",
        "norm": "group_norm",
        "query": "to_q",
        "key": "to_k",
        "value": "to_v",
        "output": "to_out.0",
    },
    finest_first=False,
    norm="conv_norm_out",
)
KEYS = (
    "norm_num_groups",
    "norm_type",
    "lookup_from_codebook",
    "grid",
    "image_size",
    "resolution",
)  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return "decoder.mid_block.resnets.0.conv1.weight" in state and "quantize.embedding.weight" in state


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `norm_num_groups` and `grid` or `image_size` are not in the weights.

    aMUSEd's pictures are in [0, 1] and it looks codes up (`lookup_from_codebook`); without that they are in [-1, 1].

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape, or a `norm_type` that is not 'group'.
    """
    if config.get("norm_type", "group") != "group":
        raise InputError(f"{LAYOUT.format}: norm_type: {shown(config['norm_type'])} is not supported; known: 'group'")
    tensors = Tensors(state, LAYOUT.format)
    vq_config = infer(
        tensors,
        LAYOUT,
        norm_groups=whole(config.get("norm_num_groups", 32), LAYOUT.format, "norm_num_groups"),
        pixel_range="unit"
        if truth(config.get("lookup_from_codebook", True), LAYOUT.format, "lookup_from_codebook")
        else "signed",
    )
    weights = convert(tensors, LAYOUT, vq_config)
    tensors.check_all_read(lambda name: False)
    return with_weights(
        VqAutoencoder(vq_config), weights, grid_of(config, vq_config.factor, LAYOUT.format), LAYOUT.format
    )
