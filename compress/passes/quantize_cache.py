"""The pass `quantize-cache`: keys and values in int8 or int4, so that long pictures cost less memory and time."""

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
from export.rewrites.cache_quantization import CacheFormat, CacheScales, cache_scales, refusal, with_quantized_cache
from export.runtime.engine import Engine
from export.runtime.signature import CODES, DecodeSignature


@dataclass(frozen=True, kw_only=True)
class CacheNotes(Notes):
    """What a picture's cache takes."""

    pictures: int = setting(doc="calibration pictures that the scales are from")
    cache_bytes_before: int = setting(doc="bytes of one picture's keys and values in float32")
    cache_bytes: int = setting(doc="and in the pass's format")


@dataclass(frozen=True)
class QuantizeCache(GraphPass):
    """Keep keys and values of a shared cache in int8 or int4, with scales from calibration tokens.

    FP8 and a scale for each token can be asked for, and are refused with what there are kernels for.
    """

    format: CacheFormat = setting("int8", doc="what keys and values are kept in; no kernel keeps fp8")
    scales: CacheScales = setting(
        "channel", doc="one for each channel of each head, or one for all of a layer's; none can be one for each token"
    )
    pictures: int = setting(
        32, doc="calibration pictures whose keys and values are looked at, at most", low=1, high=MOST_PICTURES
    )

    def requires(self, model: OnnxModel) -> None:
        """Refuse a cache that no kernel keeps in this format, and one that is quantized."""
        manifest = model.manifest
        if manifest.cache_format in CODES:
            raise PassError(f"the cache is {manifest.cache_format} already; quantize it once")
        if reason := refusal(manifest.cache, self.format, self.scales):
            raise PassError(reason)

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The model with a quantized cache; its notes say how many bytes a picture's cache took and takes.

        Raises:
            PassError: the cache holds NaN or Inf.
        """
        held = self.format
        assert held != "fp8", "requires refuses it"
        tokens = context.calibration_tokens()
        batch = examples(model.manifest.shape, tokens, context.seed).take(slice(self.pictures))
        with tempfile.TemporaryDirectory() as room:
            model.save(Path(room))
            seen = Engine.load(room).caches(batch.inputs, batch.features)
        if not all(np.isfinite(value).all() for value in seen.values()):
            raise PassError("keys or values hold NaN or Inf on the calibration tokens")
        scales = {name: cache_scales(value, held, self.scales) for name, value in seen.items()}
        made = with_quantized_cache(model, held, scales)
        notes = CacheNotes(
            pictures=len(batch),
            cache_bytes_before=4 * sum(value[0].size for value in seen.values()),
            cache_bytes=DecodeSignature.of(made.manifest).cache_bytes(model.manifest.shape.reach),
        )
        return Outcome(made, notes)
