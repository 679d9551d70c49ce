"""LlamaGen's VQ-8 and VQ-16 (arXiv 2406.06525), which Halton-MaskGIT uses too: codes on the unit sphere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.models.tokenizer.layout import Layout, Tensors, convert, grid_of, infer, truth, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.vq import VqAutoencoder

LAYOUT = Layout(
    format="llamagen-vq",
    encoder_level="encoder.conv_blocks.{}",
    decoder_level="decoder.conv_blocks.{}",
    block="res.{}",
    attention="attn.{}",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle_blocks=("mid.0", "mid.2"),
    middle_attention="mid.1",
    parts={"shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "output": "proj_out"},
    finest_first=False,
)
KEYS = ("codebook_l2_norm", "grid", "image_size", "resolution")  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return "decoder.conv_blocks.0.res.0.conv1.weight" in state


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `codebook_l2_norm` and `grid` or `image_size` are not in the weights.

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape.
    """
    tensors = Tensors(state, LAYOUT.format)
    vq_config = infer(
        tensors, LAYOUT, normalised_codes=truth(config.get("codebook_l2_norm", True), LAYOUT.format, "codebook_l2_norm")
    )
    weights = convert(tensors, LAYOUT, vq_config)
    tensors.check_all_read(lambda name: name == "quantize.codebook_used")  # a counter of training
    return with_weights(
        VqAutoencoder(vq_config), weights, grid_of(config, vq_config.factor, LAYOUT.format), LAYOUT.format
    )
