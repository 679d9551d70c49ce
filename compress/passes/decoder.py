"""The pass `decoder`: the image decoder fused exactly and statically quantized, whatever drew its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import onnx_ir as ir

from compress.core.settings import MOST_PICTURES, setting
from compress.passes import REDUCE_RANGE, Context, Notes, Outcome, PassError, ReduceRangeSetting
from compress.passes.shared.graphs import GraphPass
from export.graph.onnx_model import OnnxModel
from export.rewrites.decoder_fusion import CONVOLUTION, fuse_decoder, parts
from export.rewrites.ort_quantization import PRODUCTS, RangeMethod, quantize_decoder

Kept = Literal["first", "last", "products"]


@dataclass(frozen=True, kw_only=True)
class DecoderNotes(Notes):
    """What was quantized, where anything was."""

    convolutions: int | None = setting(None, doc="convolutions that are quantized")
    left_in_float: int | None = setting(None, doc="convolutions that are not")
    pictures: int | None = setting(None, doc="calibration pictures that were decoded for the ranges")


@dataclass(frozen=True)
class Decoder(GraphPass):
    """Fuse the image decoder exactly and quantize its convolutions: int8 weights, uint8 activations of fixed ranges.

    Ranges come from decoding calibration pictures, one at a time. Only the image decoder changes, so tokens stay the
    same; what their pictures lose is measured as PSNR and SSIM against the reference's decoder.
    """

    quantize: Literal["int8", "none"] = setting("int8", doc="none: only the exact fusion")
    keep: tuple[Kept, ...] = setting(
        ("first", "last", "products"),
        doc="what stays in float: convolutions in front of the first normalisation, the last one, matrix products",
    )
    ranges: RangeMethod = setting("percentile", doc="what of the observed activations a range holds")
    percentile: float = setting(99.99, doc="share in percent that a range holds, for percentile", low=50, high=100)
    pictures: int = setting(16, doc="calibration pictures that are decoded for the ranges", low=1, high=MOST_PICTURES)
    reduce_range: ReduceRangeSetting = setting("auto", doc=REDUCE_RANGE)

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights."""
        return self.quantize == "int8" and self.reduce_range is False

    def requires(self, model: OnnxModel) -> None:
        """Refuse an image decoder without convolutions, one that is quantized, and one that a single file holds."""
        nodes = list(model.image_decoder.graph)
        if not any(node.op_type == CONVOLUTION for node in nodes):
            raise PassError(
                "this image decoder is a palette without convolutions, so there is nothing to quantize; "
                "leave the step out"
            )
        if any(node.op_type == "QuantizeLinear" for node in nodes):
            raise PassError("the image decoder is quantized already; one step does all")
        if model.generate is not None:
            raise PassError("the single file holds the image decoder already; put decoder before engine")

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The model with the new image decoder; its notes count rewrites, and convolutions quantized and left."""
        fused = fuse_decoder(model.image_decoder)
        made, notes = fused.graph, DecoderNotes()
        if self.quantize == "int8":
            made, notes = self.quantized(made, context)
        return Outcome(replace(model, image_decoder=made), replace(notes, fused=fused.counts))

    def quantized(self, decoder: ir.Model, context: Context) -> tuple[ir.Model, DecoderNotes]:
        """The decoder in int8, and what was quantized."""
        first, middle, last = parts(decoder)
        left = [*(first if "first" in self.keep else []), *(last if "last" in self.keep else [])]
        operators = (CONVOLUTION,) if "products" in self.keep else (CONVOLUTION, *PRODUCTS)
        tokens = context.calibration_tokens().tokens
        chosen = np.random.Generator(np.random.Philox(context.seed)).permutation(len(tokens))[: self.pictures]
        context.report(0, 1, {})
        made = quantize_decoder(
            decoder,
            tokens[np.sort(chosen)],
            operators=operators,
            left=left,
            ranges=self.ranges,
            percentile=self.percentile,
            reduce_range=self.int8_range(),
        )
        total = len({*first, *middle, *last})
        kept = len(set(left))
        return made, DecoderNotes(convolutions=total - kept, left_in_float=kept, pictures=len(chosen))

    def rehearsal(self) -> tuple[Self, float]:
        """With one picture."""
        return replace(self, pictures=1), float(self.pictures if self.quantize == "int8" else 1)
