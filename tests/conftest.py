"""Tiny models, tokens and contexts that tests make in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.tokens import TokenSet
from compress.models.image_model import ImageModel
from compress.models.tokenizer import PixelTokenizer
from compress.models.transformer import LayerConfig, TokenTransformer, TransformerConfig
from compress.passes import Context
from export.sampling import Sampler


def make_tiny_model(
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    ffn: int = 40,
    seed: int = 0,
    sampler: Sampler | None = None,
    **changes: Any,
) -> ImageModel:
    """A model of 8x8 tokens in 17 levels and 10 classes, width 32, with weights that make it hold opinions."""
    shape = {"vocabulary": 17, "classes": 10, "grid": (8, 8), "width": 32, "head_width": 8, "rotary_base": 100.0}
    widths = (LayerConfig(heads, kv_heads or heads, ffn),) * layers
    config = TransformerConfig(**{**shape, "layers": widths, **changes})
    transformer = TokenTransformer(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transformer.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_matrix = parameter.dim() > 1
            parameter.copy_(0.2 * noise if is_matrix else 0.1 * noise)
        for name, parameter in transformer.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter += 1
    tokenizer = PixelTokenizer(config.vocabulary, config.grid)
    return ImageModel("tiny", "reference", transformer.eval(), tokenizer, sampler or Sampler(cfg_scale=1.5))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., ImageModel]:
    """A factory of tiny models: `tiny_model(heads=4, kv_heads=2, ffn=40, bias=True, ...)`."""
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_tokens() -> TokenSet:
    """96 training, 16 validation and 16 held-out pictures of 8x8 tokens that brighten with the class and the row."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 10, size=128)
    levels = labels[:, None, None] + np.arange(8)[:, None] + generator.integers(-2, 3, size=(128, 8, 8))
    parts = np.repeat([0, 1, 2], [96, 16, 16])
    return TokenSet(levels.clip(0, 16).reshape(128, 64).astype(np.int64), labels, parts)


@pytest.fixture
def context(tiny_tokens: TokenSet, tmp_path: Path) -> Callable[..., Context]:
    """A factory of contexts: `context(reference, calibration=8, seed=3)`."""

    def make(reference: ImageModel | None = None, **changes: Any) -> Context:
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        given = {"tokens": tiny_tokens, "calibration": 8, "seed": 0, "workspace": workspace}
        return Context(reference or make_tiny_model(), **{**given, **changes})

    return make


FAMILIES: dict[str, dict[str, Any]] = {
    "multi-head": {},
    "grouped-query": {"kv_heads": 2},
    "layernorm-gelu-bias": {
        "norm": "layernorm",
        "activation": "gelu",
        "positions": "learned",
        "bias": True,
        "tied_head": True,
    },
    "swiglu-bias": {"bias": True, "kv_heads": 1},
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def any_model(request: pytest.FixtureRequest) -> ImageModel:
    """One tiny model of every kind of layer."""
    return make_tiny_model(**request.param)
