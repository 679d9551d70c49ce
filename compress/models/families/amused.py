"""aMUSEd (diffusers UVit2DModel): a pipeline's folder or its `transformer/`, masked, drawn from a text.

Features of a text are the penultimate states of its CLIP encoder, and its pooled embedding as one more row. Those of no
text, which guidance needs, are what the folder's own encoder says of the empty text; without it give
`null_features`, a .npy file of them, its path from here or from the weights. `micro_conds` are what else the model is
told: width, height, crop, crop, score.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from compress.core.settings import InputError, shown
from compress.models.bounds import HUGE
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import COUNT, FEATURES, GRIDS, NUMBER, Arrays, Golden, with_class
from compress.models.checkpoints.layouts import CONFIG, read_config
from compress.models.checkpoints.null_text import encoder_beside, given_null, null_features, pipeline_of, text_length
from compress.models.checkpoints.published import grid_of, heads_of, layers_of, number, stated, truth
from compress.models.tokenizer.model import Tokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.uvit import UvitConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, TextShape

CONDITIONS = 5  # width, height, crop from the left, crop from the top, aesthetic score
SCORE = 6.0  # that the authors' pipeline asks for
FACTOR = 16  # pixels along a token's side, where there is no vqvae to ask
STEPS = 12


class Amused(TorchFamily):
    """aMUSEd."""

    expected = (
        "embed.embeddings.weight",
        "cond_embed.linear_1.weight",
        "transformer_layers.0.attn2.to_q.weight",
        "mlm_layer.conv2.weight",
    )
    keys = (
        "num_attention_heads",
        "num_hidden_layers",
        "micro_cond_encode_dim",
        "block_num_heads",
        "sample_size",
        "image_size",
        "grid",
        "layer_norm_eps",
        "use_bias",
        "ln_elementwise_affine",
        "micro_conds",
        "null_features",
    )
    tokenizer_advice = "give the pipeline's vqvae folder"
    text_advice = (
        "which  compress models features PIPELINE TEXT ... -o features.npy  makes; that needs the transformers "
        "library, and so does a run, unless null_features is stated"
    )
    golden_arrays: ClassVar = {"tokens": GRIDS, "features": FEATURES, "greedy_cfg_scale": NUMBER, "greedy_steps": COUNT}

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes, and the heads and the grid that config.json states.

        Raises:
            InputError: config.json asks for what no published model has.
        """
        if truth(checkpoint, "use_bias", False) or not truth(checkpoint, "ln_elementwise_affine", True):
            raise InputError(f"{checkpoint.path}: config: biases, and norms without weights, are not supported")
        width, text_width = checkpoint.shape("encoder_proj.weight", 2)
        channels, embedding = checkpoint.shape("embed.conv.weight", 4)[:2]
        heads = heads_of(checkpoint, "num_attention_heads", width, {width: 16})
        size_width = stated(checkpoint, "micro_cond_encode_dim") or 256
        pooled_width = checkpoint.shape("cond_embed.linear_1.weight", 2)[1] - CONDITIONS * size_width
        ffn = checkpoint.shape("transformer_layers.0.ff.net.2.weight", 2)[1]
        parts = pipeline_of(checkpoint.path)
        factor = pixels_of_a_token(parts)
        grid = grid_of(checkpoint, "", factor, stated(checkpoint, "sample_size") or 16)
        halved = any(name.startswith(("down_block.downsample.", "up_block.upsample.")) for name in checkpoint)
        return TransformerConfig(
            vocabulary=checkpoint.shape("mlm_layer.conv2.weight", 4)[0],
            classes=1,
            grid=grid,
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(checkpoint, "num_hidden_layers", "transformer_layers"),
            norm_epsilon=number(checkpoint, "layer_norm_eps", 1e-6),
            activation="geglu",
            positions="none",
            order="masked",
            modulation="text",
            text=TextShape(text_length(checkpoint, parts), max(text_width, pooled_width)),
            uvit=UvitConfig(
                embedding=embedding,
                channels=channels,
                depth=checkpoint.numbers("down_block.res_blocks"),
                heads=stated(checkpoint, "block_num_heads") or 12,
                cross_heads=heads,
                text_width=text_width,
                pooled_width=pooled_width,
                size=conditions(checkpoint, (float(grid[1] * factor), float(grid[0] * factor), 0.0, 0.0, SCORE)),
                size_width=size_width,
                halved=halved,
            ),
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; of the embeddings the tokens' and the mask token's, which is the last of them.

        Raises:
            InputError: the features of no text are given wrongly, or not at all.
        """
        table = checkpoint["embed.embeddings.weight"]
        yield "embedding.weight", torch.cat([table[: config.vocabulary], table[-1:]])
        yield "text.null", null_features(checkpoint, config)
        for their, our in (
            ("encoder_proj", "text.project"),
            ("encoder_proj_layer_norm", "text.norm"),
            ("cond_embed.linear_1", "text.up"),
            ("cond_embed.linear_2", "text.down"),
            ("embed.layer_norm", "stem.norm"),
            ("embed.conv", "stem.enter"),
            ("project_to_hidden_norm", "stem.leave_norm"),
            ("project_to_hidden", "stem.leave"),
            ("project_from_hidden_norm", "norm"),
            ("project_from_hidden", "tail.enter"),
            ("mlm_layer.conv1", "tail.leave"),
            ("mlm_layer.layer_norm", "tail.norm"),
            ("mlm_layer.conv2", "head"),
        ):
            yield f"{our}.weight", flat(checkpoint[f"{their}.weight"])
        for place, their, ours in (("down", "downsample", "stem"), ("up", "upsample", "tail")):
            yield from stage(checkpoint, config, f"{place}_block", f"{ours}.stage")
            if config.uvit and config.uvit.halved:
                yield f"{ours}.resample.norm.weight", checkpoint[f"{place}_block.{their}.norm.weight"]
                yield f"{ours}.resample.convolution.weight", checkpoint[f"{place}_block.{their}.conv.weight"]
        for index in range(len(config.layers)):
            yield from block(checkpoint, f"transformer_layers.{index}", f"blocks.{index}")

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """As the authors' pipeline draws (huggingface/diffusers, pipelines/amused/pipeline_amused.py)."""
        return Sampler(cfg_scale=10.0, steps=STEPS, reveal="confidence", choice_temperature=2.0, choice_fall="before")

    def tokenizer(self, checkpoint: Checkpoint, config: TransformerConfig) -> Tokenizer | None:
        """The pipeline's VQModel, where it is there."""
        from compress.models.tokenizer import formats

        parts = pipeline_of(checkpoint.path)
        if parts is None or not (parts / "vqvae").is_dir():
            return None
        opened = Checkpoint.open(parts / "vqvae", {"grid": list(config.grid)})
        return formats.read(opened, opened.config, str(parts / "vqvae"))

    def check_parts(self, checkpoint: Checkpoint) -> None:
        """Refuse a transformer of which the features of no text are not known.

        Raises:
            InputError: they are not given, and there is no text encoder to ask.
        """
        if given_null(checkpoint) is None:
            encoder_beside(checkpoint)

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """Texts are features; the likeliest tokens stay where they are surest, without noise."""
        tokens = arrays["tokens"].reshape(len(arrays["tokens"]), -1)
        labels = np.zeros(len(tokens), dtype=np.int64)
        sampler = Sampler(
            cfg_scale=float(arrays["greedy_cfg_scale"]),
            temperature=0,
            steps=int(arrays["greedy_steps"]),
            choice_temperature=0,
        )
        inputs = with_class(labels, tokens, shape)
        return Golden(inputs, arrays["features"].astype(np.float32), labels, sampler)


def block(checkpoint: Checkpoint, their: str, our: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one transformer layer."""
    for place, norm in ((1, "attention_norm"), (2, "text_norm"), (3, "ffn_norm")):
        yield f"{our}.{norm}.norm.weight", checkpoint[f"{their}.norm{place}.norm.weight"]
        yield f"{our}.{norm}.modulation.linear.weight", checkpoint[f"{their}.norm{place}.linear.weight"]
    yield from attention(checkpoint, f"{their}.attn1", f"{our}.attention")
    yield from attention(checkpoint, f"{their}.attn2", f"{our}.text")
    up, gate = checkpoint[f"{their}.ff.net.0.proj.weight"].chunk(2)
    yield f"{our}.ffn.up.weight", up
    yield f"{our}.ffn.gate.weight", gate
    yield f"{our}.ffn.down.weight", checkpoint[f"{their}.ff.net.2.weight"]


def stage(checkpoint: Checkpoint, config: TransformerConfig, their: str, our: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one convolutional stage."""
    for index in range(checkpoint.numbers(f"{their}.res_blocks")):
        for part, name in (
            ("depthwise.weight", "depthwise.weight"),
            ("norm.weight", "norm.weight"),
            ("channelwise_linear_1.weight", "up.weight"),
            ("channelwise_linear_2.weight", "down.weight"),
            ("cond_embeds_mapper.weight", "modulation.linear.weight"),
        ):
            yield f"{our}.blocks.{index}.{name}", checkpoint[f"{their}.res_blocks.{index}.{part}"]
        for part, name in (("gamma", "weight"), ("beta", "bias")):
            tensor = checkpoint[f"{their}.res_blocks.{index}.channelwise_norm.{part}"]
            yield f"{our}.blocks.{index}.response.{name}", tensor.flatten()
        theirs, ours = f"{their}.attention_blocks.{index}", f"{our}.texts.{index}"
        if config.uvit and config.uvit.channels != config.width:
            yield f"{ours}.states.weight", checkpoint[f"{theirs}.kv_mapper.weight"]
        for place, name in ((1, "first"), (2, "second")):
            yield f"{ours}.{name}_norm.weight", checkpoint[f"{theirs}.norm{place}.weight"]
            yield from attention(checkpoint, f"{theirs}.attn{place}", f"{ours}.{name}")


def attention(checkpoint: Checkpoint, their: str, our: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one attention."""
    for part, name in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "output")):
        yield f"{our}.{name}.weight", checkpoint[f"{their}.{part}.weight"]


def flat(tensor: Tensor) -> Tensor:
    """A 1 x 1 convolution's weights as a linear layer's; others as they are."""
    return tensor.flatten(1) if tensor.dim() == 4 else tensor


def pixels_of_a_token(parts: Path | None) -> int:
    """Pixels along one side of a token's patch."""
    blocks = read_config(parts / "vqvae" / CONFIG).get("block_out_channels") if parts else None
    return int(2 ** (len(blocks) - 1)) if isinstance(blocks, list) else FACTOR


def conditions(checkpoint: Checkpoint, usual: tuple[float, ...]) -> tuple[float, ...]:
    """What the model is told of the picture besides the text.

    Raises:
        InputError: they are stated, but not as five numbers.
    """
    found = checkpoint.config.get("micro_conds", usual)
    if (
        not isinstance(found, (list, tuple))
        or len(found) != CONDITIONS
        or not all(type(each) in (int, float) and abs(each) < HUGE for each in found)
    ):
        raise InputError(
            f"{checkpoint.path}: config.micro_conds: {shown(found)} are not five numbers: width, height, crop from the "
            "left and from the top, aesthetic score"
        )
    return tuple(float(each) for each in found)
