"""The pass `decoder`: the image decoder fused exactly and statically quantized, whatever drew its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from compress.core.settings import MOST_PICTURES, setting
from compress.models.artifact import Form
from compress.passes import REDUCE_RANGE, Context, Outcome, Pass, PassError, ReduceRangeSetting
from export.graph.onnx_model import OnnxModel
from export.rewrites.decoder_fusion import CONVOLUTION, fuse_decoder, parts
from export.rewrites.ort_quantization import PRODUCTS, RangeMethod, quantize_decoder
from export.targets.conformance import check

Kept = Literal["first", "last", "products"]


@dataclass(frozen=True)
class Decoder(Pass):
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

    accepts: ClassVar[Form] = Form.ONNX
    returns: ClassVar[Form] = Form.ONNX

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights."""
        return self.quantize == "int8" and self.reduce_range is False

    def run(self, model: OnnxModel, context: Context) -> Outcome:
        """The model with the new image decoder; its notes count rewrites, and convolutions quantized and left.

        Raises:
            PassError: the image decoder has no convolution, is quantized already, or was copied into a single file.
        """
        nodes = list(model.image_decoder.graph)
        if not any(node.op_type == CONVOLUTION for node in nodes):
            raise PassError(
                "decoder: this image decoder is a palette without convolutions, so there is nothing to quantize; "
                "leave the step out"
            )
        if any(node.op_type == "QuantizeLinear" for node in nodes):
            raise PassError("decoder: the image decoder is quantized already; one step does all")
        if model.generate is not None:
            raise PassError("decoder: the single file holds the image decoder already; put decoder before engine")
        fused = fuse_decoder(model.image_decoder)
        made, notes = fused.graph, {"fused": fused.counts}
        if self.quantize == "int8":
            made, counted = self.quantized(made, context)
            notes |= counted
        outcome = replace(model, image_decoder=made)
        if findings := check(outcome):
            raise PassError(f"decoder: the graph breaks a rule of {model.manifest.target}: {findings[0]}")
        return Outcome(outcome, notes)

    def quantized(self, decoder: Any, context: Context) -> tuple[Any, dict[str, Any]]:
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
            reduce_range="pairs" if self.reduce_range == "auto" else self.reduce_range,
        )
        total = len({*first, *middle, *last})
        return made, {"convolutions": total - len(set(left)), "left_in_float": len(set(left)), "pictures": len(chosen)}

    def rehearsal(self) -> tuple[Pass, float]:
        """With one picture."""
        return replace(self, pictures=1), float(self.pictures if self.quantize == "int8" else 1)
