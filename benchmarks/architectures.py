"""The architectures of published shapes, as configs alone."""

from __future__ import annotations

from compress.models.transformer.architecture import LayerConfig, TransformerConfig

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
VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


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
