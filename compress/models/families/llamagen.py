"""LlamaGen, class- and text-conditional (FoundationVision/LlamaGen): `c2i_*.pt`, `t2i_*.pt`.

Weights do not hold the number of heads where it is not the published one of the width, nor the grid; state `n_head` and
`grid`, `block_size` or `image_size` where the defaults are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import CONDITIONS, FLAT, NUMBER, Arrays, Golden, with_class
from compress.models.checkpoints.published import grid_of, heads_of, layers_of, number, stated
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, TextShape

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32, 4096: 32}  # B, L, XL, XXL, 3B, 7B
NULL = "cls_embedding.uncond_embedding"
TABLE = "cls_embedding.embedding_table.weight"


class Llamagen(TorchFamily):
    """LlamaGen, class- and text-conditional."""

    expected = (
        "tok_embeddings.weight",
        "layers.0.attention.wqkv.weight",
        "layers.0.feed_forward.w1.weight",
        "norm.weight",
    )
    keys = (
        "n_head",
        "n_layer",
        "block_size",
        "image_size",
        "grid",
        "norm_eps",
        "rope_base",
        "num_classes",
        "class_dropout_prob",
    )
    tokenizer_advice = "give vq_ds16_c2i.pt or vq_ds16_t2i.pt of LlamaGen"
    text_advice = "of FLAN-T5-XL, padded on the left with zeros, as the authors' script writes them"
    twins: ClassVar = {"output.weight": "tok_embeddings.weight"}
    golden_arrays: ClassVar = {"tokens": FLAT, "cond": CONDITIONS, "greedy_cfg_scale": NUMBER}

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and what config.json or the user states."""
        vocabulary, width = checkpoint.shape("tok_embeddings.weight", 2)
        heads = heads_of(checkpoint, "n_head", width, HEADS)
        head_width = width // heads
        rows = checkpoint.shape("layers.0.attention.wqkv.weight", 2)[0]
        layer = LayerConfig(heads, (rows // head_width - heads) // 2, checkpoint.shape(self.expected[2], 2)[0])
        texts = NULL in checkpoint or "cls_embedding.cap_proj.fc1.weight" in checkpoint
        text = TextShape(*checkpoint.shape(NULL, 2)) if texts else None
        classes = 1 if text else table_classes(checkpoint)[0]
        return TransformerConfig(
            vocabulary=vocabulary,
            classes=classes,
            grid=grid_of(checkpoint, "block_size", 16),
            width=width,
            head_width=head_width,
            layers=(layer,) * layers_of(checkpoint, "n_layer", "layers"),
            norm_epsilon=number(checkpoint, "norm_eps", 1e-5),
            rotary_base=number(checkpoint, "rope_base", 10_000),
            rotary_prefix="zero",  # LlamaGen's table begins with rows of zeros: the class token's query and key vanish
            text=text,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; tables of rotary positions and caches that some files hold are left."""
        if config.text:
            yield "embedding.weight", checkpoint["tok_embeddings.weight"]
            yield "text.null", checkpoint[NULL]
            yield "text.up.weight", checkpoint["cls_embedding.cap_proj.fc1.weight"]
            yield "text.down.weight", checkpoint["cls_embedding.cap_proj.fc2.weight"]
        else:
            table = checkpoint[TABLE]
            # Where there is no null class, its row is the mean of the classes'; nothing is drawn with it unless asked.
            null = [] if table_classes(checkpoint)[1] else [table.mean(0, keepdim=True)]
            yield "embedding.weight", torch.cat([checkpoint["tok_embeddings.weight"], table, *null])
        for index, layer in enumerate(config.layers):
            theirs, ours = f"layers.{index}", f"blocks.{index}"
            widths = [count * config.head_width for count in (layer.heads, layer.kv_heads, layer.kv_heads)]
            parts = checkpoint[f"{theirs}.attention.wqkv.weight"].split(widths)
            for part, tensor in zip(("query", "key", "value"), parts, strict=True):
                yield f"{ours}.attention.{part}.weight", tensor
            for their, our in (
                ("attention_norm", "attention_norm"),
                ("attention.wo", "attention.output"),
                ("ffn_norm", "ffn_norm"),
                ("feed_forward.w1", "ffn.gate"),
                ("feed_forward.w3", "ffn.up"),
                ("feed_forward.w2", "ffn.down"),
            ):
                yield f"{ours}.{our}.weight", checkpoint[f"{theirs}.{their}.weight"]
        yield "norm.weight", checkpoint["norm.weight"]
        yield "head.weight", checkpoint["output.weight"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """As the authors' demonstrations draw every size; without a null class there is no guidance.

        FoundationVision/LlamaGen (commit ce98ec4): the defaults of autoregressive/sample/sample_c2i.py and
        sample_t2i.py. For the lowest FID, GETTING_STARTED.md has top-k 0 and a guidance of 2 (B, L), 1.75 (XL, XXL) or
        1.65 (3B).
        """
        if NULL in checkpoint:
            return Sampler(cfg_scale=7.5, top_k=1000)
        return Sampler(cfg_scale=4.0 if table_classes(checkpoint)[1] else 1.0, top_k=2000)

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """What is assumed of a checkpoint that does not say it."""
        if NULL in checkpoint or TABLE not in checkpoint:
            return []
        if not table_classes(checkpoint)[1]:
            return [
                "no null class, so guidance leads nowhere: the mean of all classes stands for it; draw with cfg_scale 1"
            ]
        if not {"num_classes", "class_dropout_prob"} & checkpoint.config.keys():
            return ["the last class row is taken for the null class; --set class_dropout_prob=0 if it is a class"]
        return []

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """`cond` are classes, or features of a text."""
        cond, tokens = arrays["cond"], arrays["tokens"]
        if cond.ndim == 1 and cond.dtype.kind == "f":
            raise InputError(f"--golden: array 'cond' is {cond.dtype}; classes are whole numbers")
        features = cond.astype(np.float32) if cond.ndim == 3 else None
        labels = np.zeros(len(tokens), dtype=np.int64) if features is not None else cond
        sampler = Sampler(cfg_scale=float(arrays["greedy_cfg_scale"]), temperature=0)
        return Golden(with_class(labels, tokens, shape), features, labels, sampler)


def table_classes(checkpoint: Checkpoint) -> tuple[int, bool]:
    """How many classes the table of class embeddings has, and whether its last row is the null class.

    LlamaGen adds that row where `class_dropout_prob` is above 0 (autoregressive/models/gpt.py, LabelEmbedder). Where
    neither this nor `num_classes` is stated, the row is taken to be there, as in every published model.

    Raises:
        InputError: what is stated does not fit the table.
    """
    rows = checkpoint.shape(TABLE, 2)[0]
    said, dropped = stated(checkpoint, "num_classes"), checkpoint.config.get("class_dropout_prob")
    if dropped is not None and not (type(dropped) in (int, float) and 0 <= dropped <= 1):
        raise InputError(f"{checkpoint.path}: config.class_dropout_prob: {shown(dropped)} is not between 0 and 1")
    null = dropped > 0 if dropped is not None else said is None or rows == said + 1
    if said is not None and rows != said + null:
        raise InputError(
            f"{checkpoint.path}: tensor '{TABLE}' has {rows} rows; config.num_classes {said} and class_dropout_prob "
            f"{dropped if dropped is not None else 'not stated'} make {said + null}"
        )
    return rows - null, null
