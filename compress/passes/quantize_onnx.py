"""The pass `quantize-onnx`: products of an ONNX graph in int8 or int4, by ONNX Runtime's own tools."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from compress.core.settings import setting
from compress.models.transformer.examples import examples_of
from compress.passes import REDUCE_RANGE, Context, Notes, Outcome, PassError, ReduceRangeSetting
from compress.passes.shared.graphs import GraphPass
from export.graph.onnx_model import OnnxModel
from export.graph.rounding import rounds_inputs
from export.rewrites.ort_quantization import quantize_dynamic, quantize_weights, quantized_products
from export.runtime.drawing import conditions
from export.runtime.errors import first_line

TRIED = 3  # tokens of a picture


@dataclass(frozen=True, kw_only=True)
class OnnxNotes(Notes):
    """What was quantized."""

    products: int = setting(doc="products that are quantized")
    left_in_float: int = setting(doc="products that are not")


@dataclass(frozen=True)
class QuantizeOnnx(GraphPass):
    """Quantize the products of the decode graph with ONNX Runtime's tools, whatever the graph came from.

    Weights alone are kept in int8 or int4 with a scale for each `group` of inputs, and MatMulNBits computes with them.
    With int8 activations every product becomes MatMulInteger: signed int8 weights with a scale for each output channel,
    and one scale for all inputs of a call, so that a picture depends on what is drawn beside it.
    """

    weights: Literal["int8", "int4"] = setting("int8", doc="format of the weights")
    activations: Literal["int8", "none"] = setting(
        "none", doc="int8: inputs are rounded as they come; none: weights alone"
    )
    group: int = setting(32, doc="inputs that share a weight scale, where activations are none", low=16, high=256)
    symmetric: bool = setting(False, doc="no zero points, where activations are none")
    reduce_range: ReduceRangeSetting = setting("auto", doc=REDUCE_RANGE)
    head: bool = setting(False, doc="quantize the head that makes the logits too")

    uses_tokens: ClassVar[bool] = False

    def validate(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ValueError: which, and what would.
        """
        if self.weights == "int4" and self.activations == "int8":
            raise ValueError(
                "weights int4 with activations int8: ONNX Runtime has no such product; use activations: none"
            )
        if self.group & (self.group - 1):
            raise ValueError(f"group {self.group}: MatMulNBits takes powers of two, 16 to 256")

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights with int8 activations."""
        return self.activations == "int8" and self.reduce_range is False

    def requires(self, model: OnnxModel) -> None:
        """Refuse a target that does not run such products, and a graph that is quantized."""
        super().requires(model)
        if already := quantized_products(model.decode):
            raise PassError(f"{already} are quantized already; begin with the graph in float")

    def apply(self, model: OnnxModel, context: Context) -> Outcome[OnnxModel]:
        """The quantized model; its notes count what was quantized and what is left.

        Raises:
            PassError: the graph has no product to quantize.
        """
        if self.activations == "int8":
            made = quantize_dynamic(model.decode, reduce_range=self.int8_range(), head=self.head)
        else:
            bits: Literal[4, 8] = 4 if self.weights == "int4" else 8
            made = quantize_weights(model.decode, bits=bits, group=self.group, symmetric=self.symmetric, head=self.head)
        if not made.quantized:
            raise PassError("found no product with constant float weights to quantize")
        # MatMulNBits rounds inputs too, and its kernels for one row and for several round differently (KL 1.4e-4
        # measured on six layers), so both kinds are scored in the calls of drawing.
        manifest = replace(model.manifest, call_scaled=True, rounds_inputs=rounds_inputs(made.decode.graph))
        notes = OnnxNotes(products=made.quantized, left_in_float=made.left)
        return Outcome(replace(model, decode=made.decode, manifest=manifest), notes)

    def ensures(self, made: OnnxModel) -> None:
        """Refuse a graph that breaks a rule of its target, and one that ONNX Runtime does not run."""
        super().ensures(made)
        if reason := failure(made):
            raise PassError(f"ONNX Runtime does not run what its own tools made ({reason})")


def failure(model: OnnxModel) -> str:
    """Why a graph cannot be used: it is tried once, on a few tokens of one picture; empty if it can."""
    from export.runtime.engine import Engine

    shape = model.manifest.shape
    labels, features = conditions(shape, 1)
    inputs = examples_of(shape, np.zeros((1, shape.length), dtype=np.int64), labels, seed=0).inputs
    if shape.drawing.sequential:
        inputs = inputs[:, :TRIED]
    with tempfile.TemporaryDirectory(prefix="compress-") as name:
        model.save(Path(name))
        try:
            logits = Engine.load(name, threads=1).score(inputs, features)
        except Exception as error:  # ONNX Runtime has one class of error for each kind of failure
            return first_line(error)
    return "" if np.isfinite(logits).all() else "its logits hold NaN or Inf"
