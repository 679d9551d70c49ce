"""VAR's multi-scale VQVAE (arXiv 2404.02905): taming's autoencoder around a quantizer of several scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.tokenizer.formats import taming_vqgan
from compress.models.tokenizer.layout import Layout, Tensors, convert, grid_of, infer, with_weights
from compress.models.tokenizer.model import Tokenizer
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.vq import VqAutoencoder

LAYOUT: Layout = replace(taming_vqgan.LAYOUT, format="var-vqvae", fused="qkv")
PUBLISHED_SIDES = {16: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 32: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}  # by the finest
PUBLISHED_FACTOR = 16  # pixels along one side of a token
CONV = "quantize.quant_resi.qresi_ls.{}"
KEYS = ("patch_nums", "quant_resi", "grid", "image_size", "resolution")  # of config.json, that are read


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are this format's."""
    return f"{CONV.format(0)}.weight" in state and "decoder.mid.block_1.conv1.weight" in state


def read(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer; of the config only `patch_nums` (or a published `grid`) and `quant_resi` are not in the weights.

    Raises:
        InputError: the first tensor that is missing, surplus or of another shape.
    """
    tensors = Tensors(state, LAYOUT.format)
    convs = tensors.count(CONV)
    scales = scales_of(config, convs)
    vq_config = infer(tensors, LAYOUT, scales=scales)
    smooth = {f"quantizer.smooth.{index}": CONV.format(index) for index in range(convs)}
    weights = convert(tensors, LAYOUT, vq_config, smooth)
    tensors.check_all_read(lambda name: name == "quantize.ema_vocab_hit_SV")  # a counter of training
    return with_weights(VqAutoencoder(vq_config), weights, (scales.sides[-1],) * 2, LAYOUT.format)


def scales_of(config: Mapping[str, Any], convs: int) -> ScalesConfig:
    """The scales that the config names, else the published ones.

    Raises:
        InputError: they are none.
    """
    finest = grid_of(config, PUBLISHED_FACTOR, LAYOUT.format)[0]
    sides = config.get("patch_nums", PUBLISHED_SIDES.get(finest))
    if sides is None:
        raise InputError(
            f"{LAYOUT.format}: patch_nums: missing, and no published scales end at {finest}; "
            "write the sides of all scales"
        )
    if not isinstance(sides, (list, tuple)) or not all(type(side) is int and side < 1024 for side in sides):
        raise InputError(f"{LAYOUT.format}: patch_nums: {shown(sides)} is not a list of whole numbers")
    residual = config.get("quant_resi", 0.5)
    if type(residual) not in (int, float) or not abs(residual) < 1e6:
        raise InputError(f"{LAYOUT.format}: quant_resi: {shown(residual)} is not a number")
    try:
        return ScalesConfig(tuple(sides), convs, abs(float(residual)))
    except ValueError as error:
        raise InputError(f"{LAYOUT.format}: patch_nums: {error}") from error
