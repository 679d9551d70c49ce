"""A small aMUSEd: the original transformer of diffusers, and a pipeline's folder in the published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

diffusers = pytest.importorskip("diffusers", reason="the original is in diffusers, which is not installed")
transformers = pytest.importorskip("transformers", reason="the text encoder is in transformers, which is not installed")

CODES, MASK = 20, 23  # three rows of the embedding stand for nothing, as the published one's 63 do
WORDS = 8  # tokens of a text
TINY = {
    "hidden_size": 32,
    "cond_embed_dim": 12,
    "micro_cond_encode_dim": 4,
    "micro_cond_embed_dim": 20,
    "encoder_hidden_size": 16,
    "vocab_size": MASK + 1,
    "codebook_size": CODES,
    "in_channels": 24,
    "block_out_channels": 24,
    "num_res_blocks": 2,
    "block_num_heads": 3,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "sample_size": 4,
}


def opinionated(module: nn.Module, seed: int) -> nn.Module:
    """Random weights, also where they begin with 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        around = 1.0 if "norm" in name and name.endswith(("weight", "gamma")) else 0.0
        parameter.data = around + (0.1 if parameter.dim() < 2 else 0.2) * noise
    return module.eval()


def make_uvit(halved: bool = False, **changes: Any) -> nn.Module:
    """A small original; of 512 pixels it halves the grid, of 256 it does not."""
    return opinionated(diffusers.UVit2DModel(**{**TINY, "downsample": halved, "upsample": halved, **changes}), 1)


def write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer whose words are single letters."""
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": WORDS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_pipeline(folder: Path, halved: bool = False) -> None:
    """A small pipeline in the published layout."""
    folder.mkdir()
    make_uvit(halved).save_pretrained(folder / "transformer")
    codes = diffusers.VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        num_vq_embeddings=CODES,
        norm_num_groups=2,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        force_upcast=True,
    )
    opinionated(codes, 2).save_pretrained(folder / "vqvae")
    text = transformers.CLIPTextConfig(
        vocab_size=54,
        hidden_size=16,
        intermediate_size=24,
        projection_dim=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    opinionated(transformers.CLIPTextModelWithProjection(text), 3).save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    diffusers.AmusedScheduler(mask_token_id=MASK).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "AmusedPipeline",
        "_diffusers_version": "0.42.1",
        "vqvae": ["diffusers", "VQModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "transformer": ["diffusers", "UVit2DModel"],
        "scheduler": ["diffusers", "AmusedScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
