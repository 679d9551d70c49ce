"""VAR (FoundationVision/var): `var_d*.pth`, drawn scale by scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import (
    LATENTS,
    NUMBER,
    PIXELS,
    ROWS,
    Arrays,
    Golden,
    tokens_of_scales,
    with_class,
)
from compress.models.checkpoints.published import added, classes_of, heads_of, layers_of, number
from compress.models.tokenizer.model import Tokenizer, VqTokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

HEADS = {64 * depth: depth for depth in (16, 20, 24, 30, 36)}
SCALES = {680: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), 2240: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)}  # 256 and 512 pixels
LARGEST_STRETCH = math.log(100)
# Its order is gate, gate, scale, scale, shift, shift, each of attention first; ours is shift, scale, gate by branch.
MODULATION = (4, 2, 0, 5, 3, 1)


class Var(TorchFamily):
    """VAR."""

    expected = ("pos_start", "pos_1LC", "word_embed.weight", "lvl_embed.weight", "blocks.0.attn.mat_qkv.weight")
    keys = ("num_heads", "depth", "num_classes", "patch_nums", "norm_eps")
    tokenizer_advice = "give vae_ch160v4096z32.pth of VAR; the transformer reads its codebook too"
    needs_tokenizer = True
    golden_arrays: ClassVar = {
        "labels": ROWS,
        "var_input": LATENTS,
        "decoded_image": PIXELS,
        "greedy_cfg": NUMBER,
    }

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the sides of the scales.

        Raises:
            InputError: the scales are neither stated nor published ones, or attention has no l2 norm.
        """
        if not any(name.endswith(".attn.scale_mul_1H11") for name in checkpoint):
            raise InputError(
                f"{checkpoint.path}: attention without l2 norm is not supported; the published VARs have it"
            )
        _, tokens, width = checkpoint.shape("pos_1LC", 3)
        sides = checkpoint.config.get("patch_nums", SCALES.get(tokens))
        if sides is not None and (
            not isinstance(sides, (list, tuple)) or not all(type(side) is int and 0 < side <= tokens for side in sides)
        ):
            raise InputError(
                f"{checkpoint.path}: config.patch_nums: {shown(sides)} is not a list of whole numbers above 0"
            )
        if not sides or sum(side * side for side in sides) != tokens:
            raise InputError(
                f"{checkpoint.path}: {tokens} tokens over all scales: config.patch_nums {shown(sides)} does not make "
                "them; state the sides of the scales"
            )
        heads = heads_of(checkpoint, "num_heads", width, HEADS)
        shared = "shared_ada_lin.1.weight" in checkpoint
        return TransformerConfig(
            vocabulary=checkpoint.shape("head.weight", 2)[0],
            classes=classes_of(checkpoint, "num_classes", checkpoint.shape("class_emb.weight", 2)[0] - 1),
            grid=(sides[-1], sides[-1]),
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, checkpoint.shape("blocks.0.ffn.fc1.weight", 2)[0]),)
            * layers_of(checkpoint, "depth", "blocks"),
            norm="layernorm",
            norm_epsilon=number(checkpoint, "norm_eps", 1e-6),
            norm_affine=False,
            final_affine=False,
            activation="gelu-tanh",
            positions="learned",
            bias=True,
            head_bias=True,
            order="next-scale",
            qk_norm="l2",
            modulation="class",
            shared_modulation=shared,
            scales=tuple(sides),
            latent_width=checkpoint.shape("word_embed.weight", 2)[1],
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; levels, positions and the start become one table of positions."""
        yield "embedding.weight", checkpoint["class_emb.weight"]
        position = added(checkpoint["pos_1LC"][0], checkpoint["lvl_embed.weight"][levels(config.scales)])
        position[0] = added(position[0], checkpoint["pos_start"][0, 0])
        yield "position.weight", position
        if config.shared_modulation:
            for kind in ("weight", "bias"):
                yield f"shared.{kind}", reordered(checkpoint[f"shared_ada_lin.1.{kind}"])
        for index in range(len(config.layers)):
            theirs, ours = f"blocks.{index}", f"blocks.{index}"
            if config.shared_modulation:
                yield f"{ours}.modulation.table", reordered(checkpoint[f"{theirs}.ada_gss"].flatten())
            else:
                for kind in ("weight", "bias"):
                    yield f"{ours}.modulation.linear.{kind}", reordered(checkpoint[f"{theirs}.ada_lin.1.{kind}"])
            parts = checkpoint[f"{theirs}.attn.mat_qkv.weight"].chunk(3)
            for part, bias, tensor in zip(
                ("query", "key", "value"), ("q_bias", "zero_k_bias", "v_bias"), parts, strict=True
            ):
                yield f"{ours}.attention.{part}.weight", tensor
                yield f"{ours}.attention.{part}.bias", checkpoint[f"{theirs}.attn.{bias}"]
            stretch = checkpoint[f"{theirs}.attn.scale_mul_1H11"].flatten().clamp(max=LARGEST_STRETCH).exp()
            yield f"{ours}.attention.stretch", stretch
            for their, our in (("attn.proj", "attention.output"), ("ffn.fc1", "ffn.up"), ("ffn.fc2", "ffn.down")):
                for kind in ("weight", "bias"):
                    yield f"{ours}.{our}.{kind}", checkpoint[f"{theirs}.{their}.{kind}"]
        for kind in ("weight", "bias"):
            yield f"latent.{kind}", checkpoint[f"word_embed.{kind}"]
            # Its final norm takes the scale first.
            scale, shift = checkpoint[f"head_nm.ada_lin.1.{kind}"].chunk(2)
            yield f"final_modulation.linear.{kind}", torch.cat([shift, scale])
            yield f"head.{kind}", checkpoint[f"head.{kind}"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """As for the lowest FID of every depth: cfg 1.5 (FoundationVision/VAR, README.md, commit 78b9539).

        (1 + t) given - t null, t = cfg s / (S - 1), is a guidance that grows to 1 + cfg.
        """
        return Sampler(cfg_scale=2.5, guidance="linear", top_k=900, top_p=0.96)

    def from_tokenizer(self, tokenizer: Tokenizer | None) -> Iterator[tuple[str, Tensor]]:
        """The codebook and the convolutions that make what the transformer reads.

        Raises:
            InputError: the tokenizer has no scales.
        """
        if not isinstance(tokenizer, VqTokenizer) or not hasattr(tokenizer.autoencoder, "quantizer"):
            raise InputError(f"the tokenizer has no scales; {self.tokenizer_advice}")
        for name, tensor in tokenizer.autoencoder.quantizer.state_dict().items():
            yield f"scales.{name}", tensor

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """All scales are given; the guidance grows to 1 + cfg."""
        tokens = tokens_of_scales(arrays)
        sampler = Sampler(cfg_scale=1 + float(arrays["greedy_cfg"]), temperature=0, guidance="linear")
        return Golden(with_class(arrays["labels"], tokens, shape), labels=arrays["labels"], sampler=sampler)


def levels(sides: tuple[int, ...]) -> Tensor:
    """The number of each token's scale (T,); the published files hold it as `lvl_1L`."""
    return torch.repeat_interleave(torch.arange(len(sides)), torch.tensor([side * side for side in sides]))


def reordered(tensor: Tensor) -> Tensor:
    """The six parts of a modulation's rows in our order."""
    parts = tensor.chunk(6)
    return torch.cat([parts[index] for index in MODULATION])
