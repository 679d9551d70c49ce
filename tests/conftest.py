"""Tiny models, tokens and contexts that tests make in milliseconds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headless
import numpy as np
import pytest
import torch
from remembered_traces import Export, folder_of_now, remembering
from tiny_shapes import next_scale

from calibration.tokens import TokenSet
from compress.core import lease
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import PixelTokenizer, Tokenizer, VqTokenizer
from compress.models.tokenizer.scales import ScalesConfig
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.uvit import UvitConfig
from compress.passes import Context
from compress.passes.export import pictures_of
from export.building import process
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape, TextShape
from export.targets import find
from export.tracing.export import export_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what builds with TensorRT for RTX where it is not installed."""
    if not process.installed():
        for item in items:
            if item.get_closest_marker("tensorrt_rtx"):
                item.add_marker(pytest.mark.skip(reason=process.missing()))


@pytest.fixture(scope="session", autouse=True)
def no_width() -> None:
    """Output is as in a pipe: what runs tests in several processes tells each the width of its terminal."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", autouse=True)
def own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leases of a machine of their own: tests wait for nothing that runs beside them."""
    before, lease.SYSTEM = lease.SYSTEM, tmp_path_factory.mktemp("machine")
    yield
    lease.SYSTEM = before


@pytest.fixture(scope="session", autouse=True)
def fresh_export(pytestconfig: pytest.Config) -> Iterator[Export]:
    """`torch.onnx.export` as it is; all tests share the graphs that it makes, those of other workers and runs too."""
    export = torch.onnx.export
    assert pytestconfig.cache is not None
    torch.onnx.export = remembering(export, folder_of_now(pytestconfig.cache.mkdir("traces")))
    yield export
    torch.onnx.export = export


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, driven by Selenium."""
    if not headless.installed():
        pytest.skip(headless.MISSING)
    pytest.importorskip("selenium")
    found = headless.opened(tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


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
            if ("norm" in name and name.endswith("weight")) or name.endswith("stretch"):
                parameter += 1
    tokenizer = tokenizer_of(transformer)
    return ImageModel("tiny", "reference", transformer.eval(), tokenizer, sampler or Sampler(cfg_scale=1.5))


def tokenizer_of(transformer: TokenTransformer) -> Tokenizer:
    """Grey levels; of a next-scale model an autoencoder that shares its scales and their codes."""
    config = transformer.config
    if config.order != "next-scale":
        return PixelTokenizer(config.vocabulary, config.grid)
    width = config.latent_width
    torch.manual_seed(0)
    autoencoder = VqAutoencoder(
        VqConfig(config.vocabulary, width, width, (4,), (4,), 1, 1, norm_groups=2, scales=ScalesConfig(config.scales))
    )
    autoencoder.quantizer.load_state_dict(transformer.scales.state_dict())
    return VqTokenizer(autoencoder.eval().requires_grad_(False), config.grid)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., ImageModel]:
    """A factory of tiny models: `tiny_model(heads=4, kv_heads=2, ffn=40, bias=True, ...)`."""
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model's engine in floats; tests must not write into it."""
    model, folder = make_tiny_model(), tmp_path_factory.mktemp("tiny-engine")
    pictures = pictures_of(model.tokenizer)
    facts = {"family": model.family, "sampler": model.sampler, "parameters": model.parameters()}
    export_model(model.transformer, pictures, find("onnxruntime"), name=model.name, **facts).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokens() -> TokenSet:
    """96 training, 16 validation and 16 held-out pictures of 8x8 tokens that brighten with the class and the row."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 10, size=128)
    levels = labels[:, None, None] + np.arange(8)[:, None] + generator.integers(-2, 3, size=(128, 8, 8))
    parts = np.repeat([0, 1, 2], [96, 16, 16])
    return TokenSet(levels.clip(0, 16).reshape(128, 64).astype(np.int64), labels, parts)


def pictures_for(shape: Shape, tokens: TokenSet) -> TokenSet:
    """The pictures as a model of this shape reads them: of texts with features, the first rows of some are padding."""
    if shape.text is None:
        return tokens
    generator = np.random.default_rng(8)
    features = generator.normal(size=(len(tokens), shape.text.length, shape.text.width)).astype(np.float32)
    features[::2, :2] = 0
    return TokenSet(tokens.tokens, np.zeros_like(tokens.labels), tokens.parts, features)


@pytest.fixture(scope="session")
def pictures_of_kind() -> Callable[[Shape, TokenSet], TokenSet]:
    """Pictures as a model of a shape reads them: `pictures_of_kind(model.shape, tokens)`."""
    return pictures_for


@pytest.fixture
def context(tiny_tokens: TokenSet, tmp_path: Path) -> Callable[..., Context]:
    """A factory of contexts: `context(reference, calibration=8, seed=3)`."""

    def make(reference: ImageModel | None = None, **changes: Any) -> Context:
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        given = {"tokens": tiny_tokens, "calibration": 8, "seed": 0, "workspace": workspace}
        return Context(reference or make_tiny_model(), **{**given, **changes})

    return make


# 1 + 1 + 4 + 9 + 49 tokens are as many as those of the other kinds.
NEXT_SCALE = next_scale(1, 1, 2, 3, 7)
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
    "quick-gelu-context": {"activation": "quick-gelu", "positions": "learned", "context": 70},
    "lead-moments": {
        "lead": 1,
        "norm": "layernorm",
        "positions": "learned",
        "modulation": "class-position",
        "qk_norm": "layernorm",
        "activation": "gelu",
        "bias": True,
    },
    "text": {"classes": 1, "text": TextShape(5, 6), "rotary_prefix": "zero"},
    "masked": {
        "order": "masked",
        "positions": "learned",
        "modulation": "class",
        "registers": 1,
        "qk_norm": "rms",
        "tied_head": True,
        "head_bias": True,
        "outputs": 18,
    },
    "u-vit": {
        "order": "masked",
        "classes": 1,
        "positions": "none",
        "activation": "geglu",
        "modulation": "text",
        "text": TextShape(5, 6),
        "uvit": UvitConfig(
            embedding=12,
            channels=16,
            depth=1,
            heads=2,
            cross_heads=2,
            text_width=6,
            pooled_width=4,
            size=(64.0, 64.0, 0.0, 0.0, 6.0),
            size_width=4,
            halved=True,
        ),
    },
    "class-token": {
        "order": "masked",
        "positions": "learned",
        "norm": "layernorm",
        "norm_epsilon": 1e-12,
        "final_norm": "none",
        "activation": "gelu",
        "bias": True,
        "head_bias": True,
        "class_token": True,
        "post_norm": True,
        "embedding_norm": True,
    },
    "next-scale": {**NEXT_SCALE},
    "next-scale-shared": {**NEXT_SCALE, "shared_modulation": True},
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def any_model(request: pytest.FixtureRequest) -> ImageModel:
    """One tiny model of every kind of layer."""
    return make_tiny_model(**request.param)


@pytest.fixture
def any_tokens(any_model: ImageModel, tiny_tokens: TokenSet) -> TokenSet:
    """The tiny pictures as `any_model` reads them."""
    return pictures_for(any_model.shape, tiny_tokens)


class ForeignDecoder(torch.nn.Module):
    """A decoder as others write them: 64 ids, width 16, learned positions, and Hugging Face's inputs and outputs."""

    def __init__(self, layers: int, heads: int, kv_heads: int, width: int = 16) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.embedding, self.position = torch.nn.Embedding(64, width), torch.nn.Embedding(128, width)
        kv_width = kv_heads * self.head_width
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(torch.nn.Linear(width, size) for size in (width, kv_width, kv_width, width))
            for _ in range(layers)
        )
        self.head = torch.nn.Linear(width, 64, bias=False)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Logits (B, N, 64), then keys and values (B, K, P + N, d) of each layer if there were any."""
        x, present = self.embedding(ids) + self.position(positions), []
        count, total = ids.shape[1], mask.shape[1]
        columns = torch.arange(total)
        seen = (columns <= columns[-count:, None]) & (mask[:, None, None, :] != 0)  # (B, 1, N, P + N)
        for index, (query, key, value, output) in enumerate(self.layers):
            q, k, v = (
                made(x).unflatten(-1, (number, self.head_width)).transpose(1, 2)
                for made, number in ((query, self.heads), (key, self.kv_heads), (value, self.kv_heads))
            )
            if past:
                k, v = (torch.cat(pair, dim=2) for pair in zip(past[2 * index : 2 * index + 2], (k, v), strict=True))
                present += [k, v]
            wide = (self.heads // self.kv_heads, 1)
            scores = q @ k.repeat_interleave(wide[0], 1).transpose(2, 3) + torch.where(seen, 0.0, -1e9)
            mixed = scores.softmax(-1) @ v.repeat_interleave(wide[0], 1)
            x = x + output(mixed.transpose(1, 2).flatten(2)).tanh()
        return self.head(x), *present


@dataclass(frozen=True)
class Foreign:
    """A foreign decoder in PyTorch, and the file that Hugging Face's exporter would write of it."""

    module: ForeignDecoder
    path: Path


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Foreign]:
    """A factory of foreign decoders: `foreign(layers=2, heads=4, kv_heads=2, cached=True)`; equal calls share one."""
    made: dict[Any, Foreign] = {}

    def make(layers: int = 2, heads: int = 4, kv_heads: int = 2, cached: bool = True) -> Foreign:
        key = (layers, heads, kv_heads, cached)
        if key in made:
            return made[key]
        torch.manual_seed(0)
        module = ForeignDecoder(layers, heads, kv_heads).eval()
        parts = [f"{{}}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")] if cached else []
        past = [torch.zeros(2, kv_heads, 3, module.head_width) for _ in parts]
        ids, mask = torch.ones(2, 4, dtype=torch.int64), torch.ones(2, 7 if cached else 4, dtype=torch.int64)
        inputs = ["input_ids", "attention_mask", "position_ids", *(part.format("past_key_values") for part in parts)]
        outputs = ["logits", *(part.format("present") for part in parts)]
        axes = {
            name: {0: "batch", 1: "total" if name == "attention_mask" else "new"} for name in (*inputs[:3], "logits")
        }
        axes |= {name: {0: "batch", 2: "past"} for name in (*inputs[3:], *outputs[1:])}
        path = tmp_path_factory.mktemp("foreign") / "model.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, (ids, mask, ids, *past), path, input_names=inputs, output_names=outputs, dynamic_axes=axes,
                opset_version=18, dynamo=False,
            )  # fmt: skip
        return made.setdefault(key, Foreign(module, path))

    return make
