"""The sound engines that faults are planted into: small models with random weights that hold opinions.

Each is made here by the project's own passes, beside the PyTorch checkpoint that it was made from: unfused, fused with
sampling and the whole generation inside, int8, masked and next-scale; image decoder and encoder are real networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calibration.tokens import PARTS, TokenSet
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context, find
from export.runtime.sampling import Sampler

CLASSES, VOCABULARY, LAYERS, HEADS, HEAD_WIDTH = 10, 17, 3, 4, 16
LATENT = 6
CALIBRATION = 16
WEIGHTS, BIASES = 0.2, 0.1  # standard deviations; at 0.3 int8 turns a tenth of the tokens
PIXELS = 3.0  # the decoder's last convolution is so many times larger, for colours that the clamp cuts off

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "causal": {
        "grid": (4, 4),
        "layers": (LayerConfig(HEADS, 2, 96),) * LAYERS,
        "rotary_base": 100.0,
        "rotary_prefix": "zero",
    },
    "masked": {
        "grid": (4, 4),
        "layers": (LayerConfig(HEADS, HEADS, 96),) * LAYERS,
        "order": "masked",
        "positions": "learned",
        "modulation": "class",
        "head_bias": True,
    },
    "next-scale": {
        "grid": (4, 4),
        "layers": (LayerConfig(HEADS, HEADS, 96),) * LAYERS,
        "order": "next-scale",
        "scales": (1, 2, 4),
        "latent_width": LATENT,
        "positions": "learned",
        "norm": "layernorm",
        "norm_affine": False,
        "final_affine": False,
        "modulation": "class",
        "qk_norm": "l2",
        "activation": "gelu-tanh",
        "bias": True,
    },
}
SAMPLERS = {
    "causal": Sampler(cfg_scale=2.0, temperature=0.9, top_k=9),
    "masked": Sampler(cfg_scale=2.0, steps=6),
    "next-scale": Sampler(cfg_scale=1.5, top_k=12),
}
Chain = tuple[tuple[str, Mapping[str, Any]], ...]  # passes with their settings
EXPORT: tuple[str, Mapping[str, Any]] = ("export", {"target": "onnxruntime"})
FUSE: tuple[str, Mapping[str, Any]] = ("fuse", {})
# Of one kind of model one after the other: the tokenizer's graphs are exported once.
BASES: Mapping[str, tuple[str, Chain]] = {
    "plain": ("causal", (EXPORT,)),
    "fused": ("causal", (EXPORT, FUSE, ("engine", {}))),
    "single file": ("causal", (EXPORT, FUSE, ("engine", {"single_file": True}))),
    "int8": (
        "causal",
        (
            ("quantize", {"activations": "int8", "ranges": "absmax", "rounding": "nearest", "down": "same"}),
            EXPORT,
            FUSE,
            ("engine", {}),
        ),
    ),
    "masked": ("masked", (EXPORT, FUSE, ("engine", {}))),
    "next-scale": ("next-scale", (EXPORT, FUSE, ("engine", {}))),
}
LOSSY = ("int8",)


def gates_of(base: str) -> str:
    """The set of gates for such engines."""
    return "tight" if base in LOSSY else "exact"


@dataclass(frozen=True)
class Base:
    """A sound engine, and the checkpoint that it was made from."""

    name: str
    model: ImageModel
    folder: Path


@cache
def checkpoint(kind: str) -> ImageModel:
    """The small model of a kind, with equal weights whenever it is made."""
    config = TransformerConfig(
        vocabulary=VOCABULARY, classes=CLASSES, width=HEADS * HEAD_WIDTH, head_width=HEAD_WIDTH, **SHAPES[kind]
    )
    transformer = TokenTransformer(config)
    opinionated(transformer, torch.Generator().manual_seed(0))
    tokenizer = VqTokenizer(autoencoder_of(transformer), config.grid)
    return ImageModel(kind, "reference", transformer.eval().requires_grad_(False), tokenizer, SAMPLERS[kind])


def opinionated(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights that make predictions differ from place to place."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_((WEIGHTS if parameter.dim() > 1 else BIASES) * noise + is_norm)


def autoencoder_of(transformer: TokenTransformer) -> VqAutoencoder:
    """A small autoencoder of the transformer's tokens, from 8 x 8 colour pictures; of a next-scale model it shares the
    scales and their codes.
    """
    config = transformer.config
    scales = ScalesConfig(config.scales) if config.scales else None
    width = config.latent_width or LATENT
    made = VqAutoencoder(
        VqConfig(
            config.vocabulary, width, width, (8, 8), (8, 8), 1, 1, norm_groups=2, middle_attention=False, scales=scales
        )
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else BIASES * noise + is_norm)
        made.get_parameter("decoder.head.weight").mul_(PIXELS)
        if scales is not None:
            made.quantizer.load_state_dict(transformer.scales.state_dict())
    return made.eval().requires_grad_(False)


@cache
def pictures(kind: str) -> TokenSet:
    """Pictures that the model drew, to calibrate with."""
    model = checkpoint(kind)
    labels = np.arange(2 * CALIBRATION) % CLASSES
    parts = np.repeat([PARTS.index("train"), PARTS.index("held_out")], CALIBRATION)
    return TokenSet(model.draw_tokens(labels, seed=1), labels, parts)


def build(names: tuple[str, ...], room: Path) -> dict[str, Base]:
    """The sound engines of these names in folders of a room; what two of them share is made once."""
    made: dict[str, Base] = {}
    behind: dict[tuple[Any, ...], Any] = {}  # models behind each chain of passes
    for name in names:
        kind, passes = BASES[name]
        current: Any = checkpoint(kind)
        for place, (called, settings) in enumerate(passes):
            chain = (kind, str(passes[: place + 1]))
            if chain not in behind:
                done = find(called, "self-test")(**settings)
                behind[chain] = done.run(current, Context(checkpoint(kind), pictures(kind), CALIBRATION, 0, room)).model
            current = behind[chain]
        folder = room / name
        folder.mkdir(parents=True)
        current.save(folder)
        made[name] = Base(name, checkpoint(kind), folder)
    return made
