"""Models of published shapes with random weights, and the shipped ones: what the benchmarks build."""

from __future__ import annotations

import torch
from architectures import LLAMAGEN, VAR_SIDES, architecture

from compress.models.candidate import open_model
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import Tokenizer, VqTokenizer
from compress.models.tokenizer.vq import ScalesConfig, VqAutoencoder, VqConfig
from compress.models.transformer.architecture import TransformerConfig
from compress.models.transformer.model import TokenTransformer
from export.runtime.sampling import Sampler

SHIPPED = ("digits", "emoji", "emoji-masked")
NAMES = (*LLAMAGEN, "maskgit", "var-d16", *SHIPPED)


def build(name: str) -> ImageModel:
    """The model of a shape; random weights are the same every time."""
    if name in SHIPPED:
        model = open_model(name)
        assert isinstance(model, ImageModel)
        return model
    torch.manual_seed(0)
    config, sampler = architecture(name), sampler_of(name)
    tokenizer = decoder_of(name, config)
    transformer = TokenTransformer(config)
    if config.drawing.scaled:
        assert isinstance(tokenizer, VqTokenizer)
        transformer.scales.load_state_dict(tokenizer.autoencoder.quantizer.state_dict())
    for each in transformer.parameters():
        each.requires_grad_(False)
    return ImageModel(name, "reference", transformer.eval(), tokenizer, sampler)


def sampler_of(name: str) -> Sampler:
    """How the authors of a shape draw."""
    if name == "maskgit":
        return Sampler(cfg_scale=1.7, steps=32, schedule="arccos", reveal="halton")
    if name == "var-d16":
        return Sampler(cfg_scale=2.5, guidance="linear", top_k=900, top_p=0.96)
    return Sampler(cfg_scale=2.0, top_k=0 if name == "tiny" else 2000)


def decoder_of(name: str, config: TransformerConfig) -> Tokenizer:
    """A VQ decoder of the published size; of the tiny shape a tiny one."""
    if name == "tiny":
        vq = VqConfig(config.vocabulary, 4, 16, (), (8, 16), decoder_blocks=1, norm_groups=4, normalised_codes=True)
    elif config.drawing.scaled:
        vq = VqConfig(
            4096, 32, 32, (), (160, 160, 320, 320, 640), decoder_blocks=3, quant_kernel=3, attention_levels=(4,),
            scales=ScalesConfig(VAR_SIDES, 4, 0.5),
        )  # fmt: skip
    else:
        vq = VqConfig(16384, 8, 256, (), (128, 128, 256, 256, 512), attention_levels=(4,), normalised_codes=True)
    return VqTokenizer(VqAutoencoder(vq).eval().requires_grad_(False), config.grid)
