"""LlamaGen, class- and text-conditional (FoundationVision/LlamaGen): `c2i_*.pt`, `t2i_*.pt`.

Weights do not hold the number of heads where it is not the published one of the width, nor the grid; state `n_head` and
`grid`, `block_size` or `image_size` where the defaults are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compress.models.architecture import LayerConfig, TransformerConfig
from compress.models.checkpoint import Checkpoint
from compress.models.published import grid_of, heads_of
from export.sampling import Sampler
from export.shape import TextShape

EXPECTED = ("tok_embeddings.weight", "layers.0.attention.wqkv.weight", "layers.0.feed_forward.w1.weight", "norm.weight")
TOKENIZER = "give vq_ds16_c2i.pt or vq_ds16_t2i.pt of LlamaGen"
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32, 4096: 32}  # B, L, XL, XXL, 3B, 7B
NULL = "cls_embedding.uncond_embedding"


def matches(checkpoint: Checkpoint) -> bool:
    """Whether the names are this family's."""
    return all(name in checkpoint for name in EXPECTED)


def architecture(checkpoint: Checkpoint) -> TransformerConfig:
    """From shapes, and what config.json or the user states."""
    stated = checkpoint.config
    vocabulary, width = checkpoint.shape("tok_embeddings.weight")
    heads = heads_of(checkpoint, "n_head", width, HEADS)
    head_width = width // heads
    rows = checkpoint.shape("layers.0.attention.wqkv.weight")[0]
    layer = LayerConfig(heads, (rows // head_width - heads) // 2, checkpoint.shape(EXPECTED[2])[0])
    text = TextShape(*checkpoint.shape(NULL)) if NULL in checkpoint else None
    classes = 1 if text else checkpoint.shape("cls_embedding.embedding_table.weight")[0] - 1
    return TransformerConfig(
        vocabulary=vocabulary,
        classes=classes,
        grid=grid_of(checkpoint, "block_size", 16),
        width=width,
        head_width=head_width,
        layers=(layer,) * checkpoint.numbers("layers"),
        norm_epsilon=float(stated.get("norm_eps", 1e-5)),
        rotary_base=float(stated.get("rope_base", 10_000)),
        rotary_prefix="zero",  # LlamaGen's table begins with rows of zeros: the class token's query and key vanish
        text=text,
    )


def weights(checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    """The tensors by our names; tables of rotary positions and caches that some files hold are left."""
    if config.text:
        yield "embedding.weight", checkpoint["tok_embeddings.weight"]
        yield "text.null", checkpoint[NULL]
        yield "text.up.weight", checkpoint["cls_embedding.cap_proj.fc1.weight"]
        yield "text.down.weight", checkpoint["cls_embedding.cap_proj.fc2.weight"]
    else:
        tables = [checkpoint["tok_embeddings.weight"], checkpoint["cls_embedding.embedding_table.weight"]]
        yield "embedding.weight", torch.cat(tables)
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


def sampler(checkpoint: Checkpoint) -> Sampler:
    """As the authors' demonstration draws; for the lowest FID they use top_k 0 and a guidance of 1.65 to 2."""
    return Sampler(cfg_scale=7.5 if NULL in checkpoint else 4.0, top_k=1000 if NULL in checkpoint else 2000)
