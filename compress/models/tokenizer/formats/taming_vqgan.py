"""VQGANs of taming-transformers (arXiv 2012.09841), alone or as the first stage of a Lightning checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.models.tokenizer.layout import Layout, Tensors, convert, grid_of, infer, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.vq import VqAutoencoder

LAYOUT = Layout(
    format="taming-vqgan",
    encoder_level="encoder.down.{}",
    decoder_level="decoder.up.{}",
    block="block.{}",
    attention="attn.{}",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle_blocks=("mid.block_1", "mid.block_2"),
    middle_attention="mid.attn_1",
    parts={"shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "output": "proj_out"},
    finest_first=True,
)
FIRST_STAGE = "first_stage_model."
KEYS = ("grid", "image_size", "resolution", "ddconfig")  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return prefix_of(state) is not None


def prefix_of(state: Mapping[str, Tensor]) -> str | None:
    """What stands before this format's names; VAR's alike ones are told by their fused query, key and value."""
    for prefix in ("", FIRST_STAGE):
        names = (
            "quantize.embedding.weight",
            "post_quant_conv.weight",
            "decoder.mid.block_1.conv1.weight",
            "decoder.mid.attn_1.q.weight",
        )
        if all(prefix + name in state for name in names):
            return prefix
    return None


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `grid` or `resolution` (perhaps in `ddconfig`) is not in the weights.

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape.
    """
    tensors = Tensors(state, LAYOUT.format, prefix_of(state) or "")
    vq_config = infer(tensors, LAYOUT)
    weights = convert(tensors, LAYOUT, vq_config)
    tensors.check_all_read(lambda name: name.startswith("loss."))  # the discriminator and the perceptual network
    nested = config.get("ddconfig")
    said = {**(nested if isinstance(nested, Mapping) else {}), **config}
    return with_weights(
        VqAutoencoder(vq_config), weights, grid_of(said, vq_config.factor, LAYOUT.format), LAYOUT.format
    )
