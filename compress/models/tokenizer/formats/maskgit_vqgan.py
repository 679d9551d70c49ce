"""The MaskGIT-VQGAN in PyTorch that RAR (arXiv 2411.00776) and TiTok use: pictures in [0, 1], no attention.

Its residual blocks put their shortcut's convolution on what they computed, and its encoder pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.models.tokenizer.layout import Layout, Tensors, convert, grid_of, infer, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.vq import VqAutoencoder

LAYOUT = Layout(
    format="maskgit-vqgan",
    encoder_level="encoder.down.{}",
    decoder_level="decoder.up.{}",
    block="block.{}",
    attention="attn.{}",
    downsample="downsample",
    upsample="upsample_conv",
    middle_blocks=("mid.0", "mid.1"),
    middle_attention="",
    parts={"shortcut": "nin_shortcut"},
    finest_first=True,
)
TRAITS = {"bias": False, "shortcut": "output", "downsample": "pool", "pixel_range": "unit"}
KEYS = ("grid", "image_size", "resolution")  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return "decoder.mid.0.conv1.weight" in state and "decoder.up.0.block.0.conv1.weight" in state


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `grid` or `resolution` (pixels of a picture's side) is not in the weights.

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape.
    """
    tensors = Tensors(state, LAYOUT.format)
    vq_config = infer(tensors, LAYOUT, **TRAITS)
    weights = convert(tensors, LAYOUT, vq_config)
    tensors.check_all_read(lambda name: False)
    return with_weights(
        VqAutoencoder(vq_config), weights, grid_of(config, vq_config.factor, LAYOUT.format), LAYOUT.format
    )
