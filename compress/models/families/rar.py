"""RAR (yucornetto/RAR): `rar_*.bin`, in raster order, modulated by class and position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import FLAT, NUMBER, ROWS, Arrays, Golden, with_class
from compress.models.checkpoints.published import added, classes_of, grid_of, heads_of, layers_of, nested
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

HEADS = dict.fromkeys((768, 1024, 1280, 1408), 16)
# Guidance, its power and the temperature by width, of B, L, XL, XXL: the commands for ImageNet in
# bytedance/1d-tokenizer, README_RAR.md (commit 942a96f).
PUBLISHED = {768: (16.0, 2.75, 1.0), 1024: (15.5, 2.5, 1.02), 1280: (6.9, 1.5, 1.02), 1408: (8.0, 1.2, 1.02)}
USUAL = (4.0, 2.0, 1.0)  # of other widths


class Rar(TorchFamily):
    """RAR."""

    expected = ("cls_token", "pos_embed", "target_aware_pos_embed", "timesteps_embeddings", "blocks.0.attn.qkv.weight")
    keys = (
        "num_attention_heads",
        "num_hidden_layers",
        "image_seq_len",
        "image_size",
        "grid",
        "condition_num_classes",
        "model",
    )
    tokenizer_advice = "give maskgit-vqgan-imagenet-f16-256.bin"
    golden_arrays: ClassVar = {
        "tokens": FLAT,
        "labels": ROWS,
        "greedy_guidance_scale": NUMBER,
        "greedy_guidance_pow": NUMBER,
    }

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the heads and tokens that the published config.yaml's `model.generator` states."""
        flat = nested(checkpoint, "model", "generator")
        rows, width = checkpoint.shape("embeddings.weight", 2)
        vocabulary = checkpoint.shape("lm_head.weight", 2)[0]
        heads = heads_of(flat, "num_attention_heads", width, HEADS)
        ffn = checkpoint.shape("blocks.0.mlp.fc1.weight", 2)[0]
        grid = grid_of(flat, "image_seq_len", 16)
        return TransformerConfig(
            vocabulary=vocabulary,
            classes=classes_of(
                flat, "condition_num_classes", rows - vocabulary - 2
            ),  # a mask token that drawing never reads, and the null class
            grid=grid,
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(flat, "num_hidden_layers", "blocks"),
            norm="layernorm",
            norm_epsilon=1e-6,
            final_affine=False,
            activation="gelu",
            positions="learned",
            bias=True,
            head_bias=True,
            qk_norm="layernorm",
            modulation="class-position",
            lead=1,
            context=grid[0] * grid[1] + 2,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; a position's own embedding and that of the one it predicts become one."""
        table, vocabulary = checkpoint["embeddings.weight"], config.vocabulary
        yield "embedding.weight", torch.cat([table[:vocabulary], table[vocabulary + 1 :], checkpoint["cls_token"][0]])
        del table
        count = config.reach
        position = checkpoint["pos_embed"][0, :count].clone()
        position[1:-1] = added(
            position[1:-1], checkpoint["target_aware_pos_embed"][0, 2:count]
        )  # the last position predicts none
        yield "position.weight", position
        yield "moment.weight", checkpoint["timesteps_embeddings"][0, :count]
        for index in range(len(config.layers)):
            theirs, ours = f"blocks.{index}", f"blocks.{index}"
            for kind in ("weight", "bias"):
                parts = checkpoint[f"{theirs}.attn.qkv.{kind}"].chunk(3)
                for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                    yield f"{ours}.attention.{part}.{kind}", tensor
                for their, our in (
                    ("norm1", "attention_norm"),
                    ("norm2", "ffn_norm"),
                    ("attn.q_norm", "attention.query_norm.norm"),
                    ("attn.k_norm", "attention.key_norm.norm"),
                    ("attn.proj", "attention.output"),
                    ("mlp.fc1", "ffn.up"),
                    ("mlp.fc2", "ffn.down"),
                    ("adaLN_modulation.1", "modulation.linear"),
                ):
                    yield f"{ours}.{our}.{kind}", checkpoint[f"{theirs}.{their}.{kind}"]
        for kind in ("weight", "bias"):
            # Its final norm takes the scale first.
            scale, shift = checkpoint[f"adaln_before_head.adaLN_modulation.1.{kind}"].chunk(2)
            yield f"final_modulation.linear.{kind}", torch.cat([shift, scale])
            yield f"head.{kind}", checkpoint[f"lm_head.{kind}"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """The published guidance of each size, which grows as a power cosine, and temperature."""
        scale, power, temperature = PUBLISHED.get(checkpoint.shape("pos_embed")[2], USUAL)
        return Sampler(cfg_scale=scale, temperature=temperature, guidance="power-cosine", guidance_power=power)

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """Logits go on behind the last token."""
        sampler = Sampler(
            cfg_scale=float(arrays["greedy_guidance_scale"]),
            temperature=0,
            guidance="power-cosine",
            guidance_power=float(arrays["greedy_guidance_pow"]),
        )
        inputs = with_class(arrays["labels"], arrays["tokens"], shape)
        return Golden(inputs, labels=arrays["labels"], sampler=sampler)
