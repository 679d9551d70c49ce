"""ImageGPT (openai/imagegpt-small, -medium, -large): a Hugging Face folder with its colour clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from calibration.arrays import NUMBERS, Wanted, read_array
from compress.core.settings import InputError, shown
from compress.core.strict_json import read_json
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import FLAT, Arrays, Golden, after_first
from compress.models.checkpoints.published import grid_of, heads_of, layers_of, number
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

PROCESSOR = "preprocessor_config.json"
HEADS = {512: 8, 1024: 8, 1536: 16}
ACTIVATIONS = {"quick_gelu": "quick-gelu", "gelu": "gelu", "gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh"}


class Imagegpt(TorchFamily):
    """ImageGPT."""

    expected = (
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.h.0.attn.c_attn.weight",
        "lm_head.weight",
    )
    keys = (
        "n_head",
        "n_layer",
        "n_positions",
        "image_size",
        "grid",
        "layer_norm_epsilon",
        "activation_function",
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
    )
    tokenizer_advice = f"its colour clusters lie in {PROCESSOR}; put it beside the weights or give its path"
    golden_arrays: ClassVar = {"tokens": FLAT}

    def matches(self, checkpoint: Checkpoint) -> bool:
        """Whether the names are this family's; GPT-2 has the same, but norms with biases."""
        return all(name in checkpoint for name in self.expected) and "transformer.ln_f.bias" not in checkpoint

    def architecture(self, checkpoint: Checkpoint) -> TransformerConfig:
        """From shapes and config.json.

        Raises:
            InputError: the config asks for what ImageGPT does not do.
        """
        config, where = checkpoint.config, f"{checkpoint.path}: config"
        for key, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
            if config.get(key, usual) is not usual:
                raise InputError(
                    f"{where}.{key}: {shown(config[key])} is not supported; the published models have {usual}"
                )
        activation = config.get("activation_function", "quick_gelu")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise InputError(f"{where}.activation_function: {shown(activation)} is not one of {', '.join(ACTIVATIONS)}")
        positions, width = checkpoint.shape("transformer.wpe.weight", 2)
        heads = heads_of(checkpoint, "n_head", width, HEADS)
        ffn = checkpoint.shape("transformer.h.0.mlp.c_fc.weight", 2)[1]
        side = int(positions**0.5)
        return TransformerConfig(
            vocabulary=checkpoint.shape("lm_head.weight", 2)[0],
            classes=0,  # the start token stands where a class would
            grid=grid_of(checkpoint, "n_positions", 1, side),
            width=width,
            head_width=width // heads,
            layers=(LayerConfig(heads, heads, ffn),) * layers_of(checkpoint, "n_layer", "transformer.h"),
            norm_epsilon=number(checkpoint, "layer_norm_epsilon", 1e-5),
            activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
            positions="learned",
            bias=True,
            context=positions,
        )

    def weights(self, checkpoint: Checkpoint, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
        """The tensors by our names; its linear layers are (inputs, outputs)."""
        yield "embedding.weight", checkpoint["transformer.wte.weight"]
        yield "position.weight", checkpoint["transformer.wpe.weight"]
        for index in range(len(config.layers)):
            theirs, ours = f"transformer.h.{index}", f"blocks.{index}"
            yield f"{ours}.attention_norm.weight", checkpoint[f"{theirs}.ln_1.weight"]
            yield f"{ours}.ffn_norm.weight", checkpoint[f"{theirs}.ln_2.weight"]
            for kind in ("weight", "bias"):
                joined = checkpoint[f"{theirs}.attn.c_attn.{kind}"]
                for part, tensor in zip(("query", "key", "value"), joined.chunk(3, dim=-1), strict=True):
                    yield f"{ours}.attention.{part}.{kind}", turned(tensor) if kind == "weight" else tensor
            for their, our in (("attn.c_proj", "attention.output"), ("mlp.c_fc", "ffn.up"), ("mlp.c_proj", "ffn.down")):
                yield f"{ours}.{our}.weight", turned(checkpoint[f"{theirs}.{their}.weight"])
                yield f"{ours}.{our}.bias", checkpoint[f"{theirs}.{their}.bias"]
        yield "norm.weight", checkpoint["transformer.ln_f.weight"]
        yield "head.weight", checkpoint["lm_head.weight"]

    def sampler(self, checkpoint: Checkpoint) -> Sampler:
        """From the whole distribution at temperature 1, as the authors' code draws (openai/image-gpt, src/run.py)."""
        return Sampler()

    def tokenizer(self, checkpoint: Checkpoint, config: TransformerConfig) -> Tokenizer | None:
        """The clusters beside the weights, where they are."""
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        path = folder / PROCESSOR
        return self.read_tokenizer(path, config) if path.is_file() else None

    def read_tokenizer(self, path: Path, config: TransformerConfig) -> Tokenizer:
        """The clusters (K, 3) of a processor's JSON file, or of a .npy file; values in -1..1.

        Raises:
            InputError: the file is neither, or holds no such clusters.
        """
        path = path / PROCESSOR if path.is_dir() else path
        try:
            found: Any = read_array(path, Wanted(NUMBERS, (2,))) if path.suffix == ".npy" else read_json(path)
            clusters = np.asarray(found["clusters"] if isinstance(found, dict) else found, dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no colour clusters in it ({error})") from error
        if clusters.shape != (config.vocabulary, 3) or not np.isfinite(clusters).all():
            raise InputError(f"{path}: clusters are {clusters.shape}; the model has {(config.vocabulary, 3)}")
        return PixelTokenizer.of_clusters(clusters, config.grid)

    def golden(self, arrays: Arrays, shape: Shape) -> Golden:
        """The first token is the class, or the start token of a model without classes."""
        return after_first(arrays, shape)


def turned(tensor: Tensor) -> Tensor:
    """The transpose of a matrix.

    Raises:
        ValueError: it is none.
    """
    if tensor.dim() != 2:
        raise ValueError(f"{tensor.dim()} axes; a matrix has 2")
    return tensor.T
