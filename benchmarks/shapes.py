"""Models of published shapes with random weights, and the shipped ones: what the benchmarks build."""

from __future__ import annotations

import torch

from compress.models.candidate import open_model
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import Tokenizer, VqTokenizer
from compress.models.tokenizer.vq import ScalesConfig, VqAutoencoder, VqConfig
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.model import TokenTransformer
from export.runtime.sampling import Sampler

SHIPPED = {"digits": "digits", "photos": "photos", "photos-masked": "photos-masked"}
# Width, layers, heads, feed-forward units.
LLAMAGEN = {
    "llamagen-b": (768, 12, 12, 2048),
    "llamagen-l": (1024, 24, 16, 2816),
    "llamagen-xl": (1280, 36, 20, 3584),
    "llamagen-b-384": (768, 12, 12, 2048),  # 24 x 24 tokens
    "llamagen-b-512": (768, 12, 12, 2048),  # 32 x 32 tokens: the length sweep
    "tiny": (64, 2, 4, 128),  # for the benchmarks' own test
}
GRIDS = {"llamagen-b-384": 24, "llamagen-b-512": 32, "tiny": 4}
NAMES = (*LLAMAGEN, "maskgit", "var-d16", *SHIPPED)
VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def build(name: str) -> ImageModel:
    """The model of a shape; random weights are the same every time."""
    if name in SHIPPED:
        model = open_model(SHIPPED[name])
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


def architecture(name: str) -> TransformerConfig:
    """The config of a published shape."""
    if name in LLAMAGEN:
        width, depth, heads, ffn = LLAMAGEN[name]
        side = GRIDS.get(name, 16)
        return TransformerConfig(
            vocabulary=64 if name == "tiny" else 16384,
            classes=1000,
            grid=(side, side),
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * depth,
            rotary_prefix="zero",
        )
    if name == "maskgit":  # Halton-MaskGIT base
        return TransformerConfig(
            vocabulary=16384,
            classes=1000,
            grid=(16, 16),
            width=768,
            head_width=64,
            layers=(LayerConfig(12, 12, 2048),) * 12,
            positions="learned",
            order="masked",
            outputs=16385,
            tied_head=True,
            head_bias=True,
            qk_norm="rms",
            modulation="class",
            final_norm="rmsnorm-bias",
            registers=1,
        )
    return TransformerConfig(
        vocabulary=4096,
        classes=1000,
        grid=(16, 16),
        width=1024,
        head_width=64,
        layers=(LayerConfig(16, 16, 4096),) * 16,
        norm="layernorm",
        norm_epsilon=1e-6,
        norm_affine=False,
        final_affine=False,
        activation="gelu-tanh",
        positions="learned",
        bias=True,
        head_bias=True,
        order="next-scale",
        qk_norm="l2",
        modulation="class",
        scales=VAR_SIDES,
        latent_width=32,
    )


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
