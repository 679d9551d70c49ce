"""Tiny engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compress
from calibration.tokens import TokenSet
from compress.passes.export import Export
from compress.passes.quantize_onnx import QuantizeOnnx
from export.runtime.shape import TextShape

MASKED = {"order": "masked", "positions": "learned", "activation": "gelu", "bias": True}
KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "rounded together": {},
    "masked": MASKED,
    "without classes": {**MASKED, "classes": 0},
    "text": {"classes": 1, "text": TextShape(5, 6), "rotary_prefix": "zero"},
}


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of engines that draw 16 tokens: `tiny_engine("causal")`; tests must not write into them."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            passes = [Export(target="onnxruntime")]
            if kind == "rounded together":
                passes.append(QuantizeOnnx(weights="int8", activations="int8"))
            model = tiny_model(layers=1, grid=(4, 4), **KINDS[kind])
            features = np.zeros((8, 5, 6), dtype=np.float32) if kind == "text" else None
            tokens = TokenSet(np.zeros((8, 16), np.int64), np.zeros(8, np.int64), np.zeros(8, np.int64), features)
            made[kind] = tmp_path_factory.mktemp("engine")
            compress.apply(model, passes, tokens, calibration=4).save(made[kind])
        return made[kind]

    return make
