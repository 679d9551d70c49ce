"""Tiny models of every kind, exported for every target; PyTorch's export, which takes the time, runs once a model."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorrt_stand_in import ROWS, VERSION, HostGpu, Library, with_plans
from tiny_shapes import next_scale

from calibration.tokens import TokenSet
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, examples
from compress.models.transformer.uvit import UvitConfig
from compress.passes import Context
from compress.passes.export import pictures_of
from compress.passes.quantize import Quantize
from export.building.profiles import Rows
from export.graph.onnx_model import OnnxModel
from export.runtime import tensorrt
from export.runtime.engine import Engine
from export.runtime.shape import TextShape
from export.targets import find
from export.tracing.export import export_model, source_graph
from export.tracing.trace import plain_graph

# 1 + 1 + 1 + 4 + 9 tokens are as many as those of the other kinds.
NEXT_SCALE = next_scale(1, 1, 1, 2, 3)
LEARNED = {"norm": "layernorm", "positions": "learned", "bias": True}
UVIT: dict[str, Any] = {
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
    "layers": 1,
}
# Heads are 16 wide because GroupQueryAttention rotates multiples of 16 only; 32 inputs make two groups of 16.
SHAPES: dict[str, dict[str, Any]] = {
    "rotary": {},
    "grouped": {"kv_heads": 1, "bias": True},
    "learned": {**LEARNED, "activation": "gelu", "tied_head": True},
    "learned tanh": {**LEARNED, "activation": "gelu-tanh", "layers": 1},
    "narrow heads": {"head_width": 8, "layers": 1},
    "quick gelu": {**LEARNED, "activation": "quick-gelu", "context": 20, "layers": 1},
    "zero prefix": {"rotary_prefix": "zero", "layers": 1},
    "lead": {
        **LEARNED,
        "lead": 1,
        "modulation": "class-position",
        "qk_norm": "layernorm",
        "activation": "gelu",
        "final_norm": "rmsnorm-bias",
    },
    "modulated": {**LEARNED, "lead": 1, "modulation": "class", "activation": "gelu", "layers": 1},
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
    "masked without classes": {**LEARNED, "order": "masked", "activation": "gelu", "classes": 0, "layers": 1},
    "u-vit": UVIT,
    "class token": {
        **LEARNED,
        "order": "masked",
        "final_norm": "none",
        "activation": "gelu",
        "head_bias": True,
        "class_token": True,
        "post_norm": True,
        "embedding_norm": True,
        "layers": 1,
    },
    "next-scale": NEXT_SCALE,
    "next-scale shared": {**NEXT_SCALE, "shared_modulation": True},
}
FORMATS: dict[str, dict[str, Any]] = {
    "int8 dynamic": {"weights": "int8", "activations": "int8", "dynamic": True, "head": "float"},
    "int4 group": {"weights": "int4", "group": 16, "head": "float"},
    "int8 static": {"weights": "int8", "activations": "int8", "down": "same", "head": "float"},
}


@pytest.fixture(scope="session")
def model_of(tiny_model: Callable[..., ImageModel], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Models by the name of their shape, of the number format that the shape `rotary` is quantized to, or both.

    `masked as int8 static` is the second shape in the first format.
    """

    @functools.cache
    def make(kind: str) -> ImageModel:
        named, _, form = kind.partition(" as ")
        shape = {"layers": 2, "heads": 2, "head_width": 16, "grid": (4, 4), **SHAPES.get(named, {})}
        model = tiny_model(**shape)
        form = form or kind
        if form not in FORMATS:
            return model
        labels = np.arange(8)
        tokens = TokenSet(np.random.default_rng(0).integers(0, 17, (8, 16)), labels, np.zeros(8, dtype=np.int64))
        return Quantize(**FORMATS[form]).run(model, Context(model, tokens, 8, 0, tmp_path_factory.mktemp("room"))).model

    return make


@pytest.fixture(scope="session")
def exported(model_of: Callable[..., ImageModel]) -> Callable[..., OnnxModel]:
    """Exported models: `exported("rotary", "onnxruntime")`; each call gives a graph of its own."""
    source = functools.cache(lambda kind: source_graph(model_of(kind).transformer))
    others: dict[tuple[str, str], Any] = {}

    def remembered(model: ImageModel, kind: str) -> Callable[..., Any]:
        """`plain_graph`, once for each graph: all grey levels share theirs."""

        def make(module: Any, given: Any, name: str, *outputs: str) -> Any:
            key = (kind if model.tokenizer.state() else "grey", name)
            if key not in others:
                others[key] = plain_graph(module, given, name, *outputs)
            return others[key].clone()

        return make

    def make(kind: str, target: str = "onnxruntime", **settings: Any) -> OnnxModel:
        model = model_of(kind)
        with (
            mock.patch("export.tracing.export.source_graph", return_value=source(kind).clone()),
            mock.patch("export.tracing.export.plain_graph", remembered(model, kind)),
        ):
            return export_model(
                model.transformer,
                pictures_of(model.tokenizer),
                find(target),
                name=model.name,
                family=model.family,
                sampler=model.sampler,
                parameters=model.parameters(),
                **settings,
            )

    return make


@pytest.fixture(scope="session")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[OnnxModel], Engine]:
    """A loaded engine of a model."""

    def load(model: OnnxModel) -> Engine:
        folder = tmp_path_factory.mktemp("engine")
        model.save(folder)
        return Engine.load(folder, threads=1)

    return load


@pytest.fixture(scope="session")
def inputs() -> NDArray[np.int64]:
    """Teacher-forced inputs (3, 16): a class, then the picture's tokens but the last."""
    generator = np.random.default_rng(1)
    return np.concatenate([generator.integers(17, 27, (3, 1)), generator.integers(0, 17, (3, 15))], axis=1)


@pytest.fixture(scope="session")
def examples_of(model_of: Callable[..., ImageModel], pictures_of_kind: Callable) -> Callable[[str], Examples]:
    """Teacher-forced examples of three pictures, as the model of a kind reads them."""

    def make(kind: str) -> Examples:
        generator = np.random.default_rng(1)
        shape = model_of(kind).shape
        labels = generator.integers(0, max(shape.classes, 1), 3)
        pictures = TokenSet(generator.integers(0, 17, (3, 16)), labels, np.zeros(3, dtype=np.int64))
        return examples(shape, pictures_of_kind(shape, pictures))

    return make


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[mock.MagicMock]:
    """A stand-in for TensorRT 11.4 on a machine with a device; Polygraphy is imported afresh around it."""
    fake = mock.MagicMock(name="tensorrt")
    fake.__version__, fake.__spec__ = "11.4.0", None
    fake.ILogger = type("ILogger", (), {})
    fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 0
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(tensorrt, "cuda_devices", lambda: 1)

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "polygraphy"]:
            del sys.modules[name]

    forget()
    yield fake
    forget()


@pytest.fixture
def on_stand_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Library]]:
    """An engine folder of a model with plans, on a machine whose TensorRT is a stand-in, and that stand-in."""

    def make(
        model: OnnxModel, builder: str = "tensorrt-rtx", rows: Rows = ROWS, host: Sequence[str] = (), **changes: Any
    ) -> tuple[Path, Library]:
        folder = tmp_path_factory.mktemp("engine")
        version = VERSION if builder == "tensorrt-rtx" else "11.4.0"
        with_plans(model, builder, **{"version": version, **changes}).save(folder)
        library = Library(folder, model, rows, host, version)
        monkeypatch.setitem(sys.modules, "tensorrt_rtx" if builder == "tensorrt-rtx" else "tensorrt", library)
        monkeypatch.setattr(tensorrt, "cuda_devices", lambda: 1)
        monkeypatch.setattr(tensorrt, "torch_with_cuda", lambda: torch)
        monkeypatch.setattr(tensorrt, "Gpu", HostGpu)
        return folder, library

    return make
