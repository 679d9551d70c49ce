"""The minGPT of taming-transformers (CompVis): Lightning `.ckpt` files, whose class tokens are tokens like others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import FLAT, Arrays, Golden, after_first
from compress.models.checkpoints.published import grid_of, heads_of, layers_of, stated
from compress.models.tokenizer import formats
from compress.models.tokenizer.model import Tokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

PREFIX, FIRST_STAGE = "transformer.", "first_stage_model."
HEADS = {1024: 16, 1536: 24, 1664: 16}
CLASSES = 1000  # ImageNet's, where nothing is stated
PUBLISHED_SIDE = 16
IMAGENET_WIDTH = 1536


class Taming(TorchFamily):
    """The minGPT of taming-transformers."""

    expected = tuple(
        f"{PREFIX}{name}" for name in ("pos_emb", "tok_emb.weight", "blocks.0.attn.key.weight", "head.weight")
    )
    keys = ("n_head", "n_layer", "n_classes", "classes", "image_size", "grid")
    tokenizer_advice = "give the VQGAN that it was trained on"
    twins: ClassVar = {f"{PREFIX}head.weight": f"{PREFIX}tok_emb.weight"}
    golden_arrays: ClassVar = {"tokens": FLAT}

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the heads, grid and classes that config.json or the user states."""
        vocabulary, width = checkpoint.shape(f"{PREFIX}tok_emb.weight", 2)
        positions = checkpoint.shape(f"{PREFIX}pos_emb", 3)[1]
        heads = heads_of(checkpoint, "n_head", width, HEADS)
        ffn = checkpoint.shape(f"{PREFIX}blocks.0.mlp.0.weight", 2)[0]
        side = min(PUBLISHED_SIDE, math.isqrt(positions - 1))
        return TransformerConfig(
            vocabulary=vocabulary,
            classes=stated(checkpoint, "n_classes", "classes") or min(CLASSES, vocabulary),
            grid=grid_of(checkpoint, "", PUBLISHED_SIDE, side),
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(checkpoint, "n_layer", f"{PREFIX}blocks"),
            norm="layernorm",
            activation="gelu",
            positions="learned",
            bias=True,
            context=positions,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names. Class c has the embedding of token c; no class that of token 0, the start token."""
        table = checkpoint[f"{PREFIX}tok_emb.weight"]
        yield "embedding.weight", torch.cat([table, table[: config.classes], table[:1]])
        del table
        yield "position.weight", checkpoint[f"{PREFIX}pos_emb"][0]
        for index in range(len(config.layers)):
            theirs, ours = f"{PREFIX}blocks.{index}", f"blocks.{index}"
            for kind in ("weight", "bias"):
                for their, our in (
                    ("ln1", "attention_norm"),
                    ("ln2", "ffn_norm"),
                    ("attn.query", "attention.query"),
                    ("attn.key", "attention.key"),
                    ("attn.value", "attention.value"),
                    ("attn.proj", "attention.output"),
                    ("mlp.0", "ffn.up"),
                    ("mlp.2", "ffn.down"),
                ):
                    yield f"{ours}.{our}.{kind}", checkpoint[f"{theirs}.{their}.{kind}"]
        for kind in ("weight", "bias"):
            yield f"norm.{kind}", checkpoint[f"{PREFIX}ln_f.{kind}"]
        yield "head.weight", checkpoint[f"{PREFIX}head.weight"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """Without guidance: the model knows no null class. Top-k and top-p are those of the authors' commands.

        CompVis/taming-transformers, README.md (commit 3ba01b2): ImageNet's (width 1536) with k 600 and p 0.92, others
        with k 250, which is the default of scripts/sample_fast.py.
        """
        imagenet = checkpoint.shape(f"{PREFIX}tok_emb.weight")[1] == IMAGENET_WIDTH
        return Sampler(top_k=600, top_p=0.92) if imagenet else Sampler(top_k=250)

    def tokenizer(self, checkpoint: Checkpoint, config: TransformerConfig) -> Tokenizer | None:
        """The VQGAN that a Lightning checkpoint holds beside the transformer."""
        first = checkpoint.renamed(
            lambda name: name.removeprefix(FIRST_STAGE) if name.startswith(FIRST_STAGE) else None
        )
        if not len(first):
            return None
        return formats.read(first, {"grid": list(config.grid)}, f"{checkpoint.path}: {FIRST_STAGE}")

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """The first token is the class, or the start token of a model without classes."""
        return after_first(arrays, shape)
