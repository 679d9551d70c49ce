"""The pass `quantize-cache`: keys and values in int8, so that long pictures cost less memory and time."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.core.settings import MOST_PICTURES, setting
from compress.models.transformer.examples import examples
from compress.passes import Context, Notes, Outcome, PassError
from compress.passes.shared.graphs import GraphPass
from export.graph.onnx_model import OnnxModel
from export.rewrites.cache_quantization import cache_scales, with_int8_cache
from export.runtime.engine import Engine


@dataclass(frozen=True, kw_only=True)
class CacheNotes(Notes):
    """What a picture's cache takes."""

    pictures: int = setting(doc="calibration pictures that the scales are from")
    cache_bytes_before: int = setting(doc="bytes of one picture's keys and values in float32")
    cache_bytes: int = setting(doc="and in int8")


@dataclass(frozen=True)
class QuantizeCache(GraphPass):
    """Keep keys and values of a shared cache in int8, with a scale for each channel from calibration tokens."""

    pictures: int = setting(
        32, doc="calibration pictures whose keys and values are looked at, at most", low=1, high=MOST_PICTURES
    )

    def requires(self, model: OnnxModel) -> None:
        """Refuse a cache of another kind, and one that is quantized."""
        manifest = model.manifest
        if manifest.cache != "shared":
            raise PassError(
                f"the cache is {manifest.cache}; only a shared one can be int8: put it behind a fuse that matches "
                f"attention, for target onnxruntime"
            )
        if manifest.cache_format == "int8":
            raise PassError("the cache is int8 already; quantize it once")

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The model with an int8 cache; its notes say how many bytes a picture's cache took and takes.

        Raises:
            PassError: the cache holds NaN or Inf.
        """
        tokens = context.calibration_tokens()
        batch = examples(model.manifest.shape, tokens, context.seed).take(slice(self.pictures))
        with tempfile.TemporaryDirectory() as room:
            model.save(Path(room))
            seen = Engine.load(room).caches(batch.inputs, batch.features)
        if not all(np.isfinite(value).all() for value in seen.values()):
            raise PassError("keys or values hold NaN or Inf on the calibration tokens")
        made = with_int8_cache(model, {name: cache_scales(value) for name, value in seen.items()})
        numbers = sum(value[0].size for value in seen.values())
        return Outcome(made, CacheNotes(pictures=len(batch), cache_bytes_before=4 * numbers, cache_bytes=numbers))
