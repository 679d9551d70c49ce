"""Halton-MaskGIT (llvictorll/Halton-Maskgit): `ImageNet_*.pth`, masked, drawn in the order of a Halton sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.core.settings import InputError
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import COUNT, FLAGS, GRIDS, NUMBER, ORDER, ROWS, Arrays, Golden, with_class
from compress.models.checkpoints.published import classes_of, grid_of, heads_of, layers_of, stated
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

# The weight of guidance by width, of tiny, small, base, large; all take 32 steps: the table of pretrained models in
# valeoai/Halton-MaskGIT, README.md (commit f61b0a1).
WEIGHTS = {384: 1.5, 512: 1.0, 768: 0.7, 1024: 0.5}
HEADS = {384: 6, 512: 6, 768: 12, 1024: 16}  # tiny, small (heads of 85), base, large


class HaltonMaskgit(TorchFamily):
    """Halton-MaskGIT."""

    expected = (
        "tok_emb.weight",
        "pos_emb.weight",
        "cls_emb.weight",
        "transformer.layers.0.attn.wq.weight",
        "head.bias",
    )
    keys = ("heads", "depth", "register", "nb_class", "image_size", "grid")
    tokenizer_advice = "give vq_ds16_c2i.pt of LlamaGen, which it shares"
    golden_arrays: ClassVar = {
        "tokens": GRIDS,
        "labels": ROWS,
        "drop_label": FLAGS,
        "halton_order": ORDER,
        "greedy_w": NUMBER,
        "greedy_steps": COUNT,
    }

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the heads that config.json or the user states."""
        rows, width = checkpoint.shape("tok_emb.weight", 2)
        joined = checkpoint.shape("transformer.layers.0.attn.wq.weight", 2)[0]
        heads = heads_of(checkpoint, "heads", width, HEADS, joined)
        tokens = checkpoint.shape("pos_emb.weight", 2)[0]
        registered = "reg_tokens.weight" in checkpoint or stated(checkpoint, "register", least=0)
        patched = "in_proj.weight" in checkpoint or "out_proj.weight" in checkpoint
        ffn = checkpoint.shape("transformer.layers.0.ff.w1.weight", 2)[0]
        return TransformerConfig(
            vocabulary=rows - 1,
            classes=classes_of(checkpoint, "nb_class", checkpoint.shape("cls_emb.weight", 2)[0] - 1),
            grid=grid_of(checkpoint, "", 16, int(tokens**0.5)),
            width=width,
            head_width=joined // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(checkpoint, "depth", "transformer.layers"),
            positions="learned",
            order="masked",
            outputs=rows,  # the mask token has a logit too
            tied_head=True,
            head_bias=True,
            qk_norm="rms",
            modulation="class",
            final_norm="rmsnorm-bias",
            registers=checkpoint.shape("reg_tokens.weight", 2)[0] if registered else 0,
            patch=checkpoint.shape("in_proj.weight", 4)[2] if patched else 1,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; the head's weight is the embedding's and stands in the file a second time."""
        tokens = checkpoint["tok_emb.weight"]
        if "head.weight" in checkpoint:
            head = checkpoint["head.weight"]
            if head.shape != tokens.shape or (not tokens.is_meta and not torch.equal(head, tokens)):
                raise InputError(
                    f"{checkpoint.path}: tensor 'head.weight' differs from 'tok_emb.weight'; they are tied"
                )
            del head
        yield "embedding.weight", torch.cat([tokens, checkpoint["cls_emb.weight"]])
        del tokens
        yield "position.weight", checkpoint["pos_emb.weight"]
        if config.registers:
            yield "registers", checkpoint["reg_tokens.weight"]
        if config.patch > 1:
            yield "merge.weight", checkpoint["in_proj.weight"]
            yield "divide.weight", checkpoint["out_proj.weight"].flatten(1)
        for index in range(len(config.layers)):
            theirs, ours = f"transformer.layers.{index}", f"blocks.{index}"
            for kind in ("weight", "bias"):
                yield f"{ours}.modulation.linear.{kind}", checkpoint[f"{theirs}.mlp.1.{kind}"]
            for their, our in (
                ("ln1", "attention_norm"),
                ("ln2", "ffn_norm"),
                ("attn.wq", "attention.query"),
                ("attn.wk", "attention.key"),
                ("attn.wv", "attention.value"),
                ("attn.wo", "attention.output"),
                ("ff.w1", "ffn.gate"),
                ("ff.w3", "ffn.up"),
                ("ff.w2", "ffn.down"),
            ):
                yield f"{ours}.{our}.weight", checkpoint[f"{theirs}.{their}.weight"]
        for kind in ("weight", "bias"):
            yield f"norm.{kind}", checkpoint[f"last_norm.norm_final.{kind}"]
            yield f"final_modulation.linear.{kind}", checkpoint[f"last_norm.mlp.1.{kind}"]
        yield "head_bias", checkpoint["head.bias"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """32 steps; the authors' weight w of guidance, (1 + w) given - w null, is a scale of 1 + w."""
        weight = WEIGHTS.get(checkpoint.shape("tok_emb.weight")[1], WEIGHTS[768])
        return Sampler(cfg_scale=1 + weight, steps=32, schedule="arccos", reveal="halton")

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """A dropped label is the null class; the guidance w is a scale of 1 + w."""
        labels = np.where(arrays["drop_label"], shape.null_class, arrays["labels"])
        tokens = arrays["tokens"].reshape(len(labels), -1)
        sampler = Sampler(
            cfg_scale=1 + float(arrays["greedy_w"]),
            temperature=0,
            steps=int(arrays["greedy_steps"]),
            schedule="arccos",
            reveal="halton",
        )
        return Golden(with_class(labels, tokens, shape), labels=arrays["labels"], sampler=sampler)
