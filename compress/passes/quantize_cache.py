"""The pass `quantize-cache`: keys and values in int8, so that long pictures cost less memory and time."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from compress.core.settings import MOST_PICTURES, setting
from compress.models.artifact import Form
from compress.models.transformer.examples import examples
from compress.passes import Context, Outcome, Pass, PassError
from export.graph.onnx_model import OnnxModel
from export.rewrites.cache_quantization import cache_scales, with_int8_cache
from export.runtime.engine import Engine
from export.targets.conformance import check


@dataclass(frozen=True)
class QuantizeCache(Pass):
    """Keep keys and values of a shared cache in int8, with a scale for each channel from calibration tokens."""

    pictures: int = setting(
        32, doc="calibration pictures whose keys and values are looked at, at most", low=1, high=MOST_PICTURES
    )

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX

    def run(self, model: OnnxModel, context: Context) -> Outcome:
        """The model with an int8 cache; its notes say how many bytes a picture's cache took and takes.

        Raises:
            PassError: the cache is of another kind or quantized already, or it holds NaN or Inf.
        """
        manifest = model.manifest
        if manifest.cache != "shared":
            raise PassError(
                f"quantize-cache: the cache is {manifest.cache}; only a shared one can be int8: put it behind a fuse "
                f"that matches attention, for target onnxruntime"
            )
        if manifest.cache_format != "float32":
            raise PassError(f"quantize-cache: the cache is {manifest.cache_format} already; quantize it once")
        asked = examples(manifest.shape, context.calibration_tokens(), context.seed).take(slice(self.pictures))
        with tempfile.TemporaryDirectory() as room:
            model.save(Path(room))
            seen = Engine.load(room).caches(asked.inputs, asked.features)
        if not all(np.isfinite(value).all() for value in seen.values()):
            raise PassError("quantize-cache: keys or values hold NaN or Inf on the calibration tokens")
        made = with_int8_cache(model, {name: cache_scales(value) for name, value in seen.items()})
        findings = check(made)
        if findings:
            raise PassError(f"quantize-cache: the graph breaks a rule of {manifest.target}: {findings[0]}")
        numbers = sum(value[0].size for value in seen.values())
        return Outcome(made, {"pictures": len(asked), "cache_bytes_before": 4 * numbers, "cache_bytes": numbers})
