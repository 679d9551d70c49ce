"""Keep the weights in int8, int4 or FP8, and round activations where asked; linear layers become quantized ones."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from calibration.observe import Magnitudes, observe_inputs
from calibration.ranges import activation_scale, one_thread, weight_scales
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import (
    LinearQuantization,
    QuantizedLinear,
    parameter_count,
    quantizations,
    replace_module,
    rounded_input,
)
from compress.passes import REDUCE_RANGE, Context, Notes, Outcome, PassError, ReduceRangeSetting, TorchPass
from compress.passes.shared.importance import chunks
from export.graph.number_formats import FORMATS


@dataclass(frozen=True, kw_only=True)
class QuantizeNotes(Notes):
    """What was quantized, and how far the weights are from what they were."""

    layers: int = setting(doc="layers that are quantized")
    share_of_weights: float = setting(doc="their share of all weights")
    sqnr_db_median: float = setting(doc="signal to quantization noise of a layer's weights, decibels; the median")
    sqnr_db_worst: float = setting(doc="and of the worst layer")
    worst_layer: str = setting(doc="the worst layer")


@dataclass(frozen=True)
class Quantize(TorchPass):
    """Keep the weights of the linear layers in int8, int4 or FP8, and round their inputs where asked.

    Weights have a scale for each output channel, or for each `group` inputs of it. Static activations have one scale
    for each layer, from calibration tokens; dynamic ones a scale for every token and block of inputs. `ranges` says
    what the largest code stands for: the absmax, a percentile of the magnitudes, or the clip of least squared error.
    """

    weights: Literal["int8", "int4", "fp8"] = setting("int8", doc="format of the weights")
    activations: Literal["none", "int8", "fp8"] = setting("none", doc="format of the inputs of the products")
    dynamic: bool = setting(False, doc="scale int8 activations as they come, instead of once by calibration")
    group: int = setting(0, doc="inputs that share a weight scale; 0: all of an output channel", low=0, high=MOST_WIDTH)
    ranges: Literal["absmax", "percentile", "mse"] = setting("mse", doc="how ranges are chosen")
    percentile: float = setting(
        99.9, doc="share of magnitudes inside the range, for ranges: percentile", low=50, high=100
    )
    reduce_range: ReduceRangeSetting = setting("auto", doc=REDUCE_RANGE)
    head: bool = setting(False, doc="quantize the head that makes the logits too")

    def validate(self) -> None:
        """Refuse formats that do not go together.

        Raises:
            ValueError: which, and what would.
        """
        self.spec()

    def spec(self) -> LinearQuantization:
        """The formats of every layer."""
        static = self.weights == "int8" and self.activations == "int8" and not self.dynamic
        reduce_range = self.int8_range() if static or self.reduce_range != "auto" else False
        return LinearQuantization(self.weights, self.activations, self.dynamic, self.group, reduce_range)

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights with static activations."""
        return self.weights == "int8" and self.spec().static and self.reduce_range is False

    def requires(self, model: ImageModel) -> None:
        """Refuse a model that is quantized already, or has no head to quantize."""
        if already := quantizations(model.transformer):
            raise PassError(f"the model has {len(already)} quantized layers already; quantize once")
        if self.head and model.transformer.config.tied_head:
            raise PassError("head: true, but the head is tied to the embedding; use head: false")

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with quantized layers.

        Raises:
            PassError: its activations hold NaN or Inf.
        """
        transformer, spec = sharing_copy(model.transformer), self.spec()
        linears = dict(transformer.linears())
        if self.head:
            linears["head"] = transformer.head
        seen = self.observe(transformer, linears, context) if spec.static else {}
        ratios = {}
        for index, (name, linear) in enumerate(linears.items()):
            weight = linear.weight.detach()
            scales = weight_scales(
                *(weight, self.group, spec.largest, spec.rounded, self.ranges, self.percentile, spec.pair_limit)
            )
            input_scale = self.input_scale(seen[name]) if spec.static else None
            with one_thread():
                quantized = QuantizedLinear.of(linear, spec, scales, input_scale)
                ratios[name] = sqnr_db(weight, quantized.dequantized_rows())
            replace_module(transformer, name, quantized)
            context.report(index + 1, len(linears), {})
        worst = min(ratios, key=lambda name: ratios[name])
        quantized_weights = sum(linear.weight.numel() for linear in linears.values())
        notes = QuantizeNotes(
            layers=len(linears),
            share_of_weights=round(quantized_weights / parameter_count(transformer), 4),
            sqnr_db_median=round(statistics.median(ratios.values()), 2),
            sqnr_db_worst=round(ratios[worst], 2),
            worst_layer=worst,
        )
        return Outcome(model.with_transformer(transformer), notes)

    def observe(
        self, transformer: TokenTransformer, linears: dict[str, nn.Linear], context: Context
    ) -> dict[str, Magnitudes]:
        """Magnitudes of each layer's input on the calibration tokens."""

        def drive() -> None:
            for chunk in chunks(transformer, context.calibration_tokens(), context.report):
                transformer(*chunk.tensors())

        try:
            return observe_inputs(transformer, linears, drive)
        except ValueError as error:
            raise PassError(str(error)) from error

    def input_scale(self, seen: Magnitudes) -> float:
        """The static scale of a layer's input."""
        rounded = partial(rounded_input, activations=self.activations)
        return activation_scale(seen, FORMATS[self.activations].largest, rounded, self.ranges, self.percentile)


def sharing_copy(transformer: TokenTransformer) -> TokenTransformer:
    """Modules of their own around the same tensors, so that layers can be replaced without a second copy in memory.

    Nobody changes a model's tensors in place: what is trained is a full copy.
    """
    tensors = (*transformer.parameters(), *transformer.buffers())
    return copy.deepcopy(transformer, {id(each): each for each in tensors})


def sqnr_db(exact: Tensor, rounded: Iterable[Tensor]) -> float:
    """Signal to quantization noise, decibels; of an exact copy 200. What is rounded comes a few rows at a time."""
    signal, noise, start = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
    for part in rounded:
        rows = exact[start : start + len(part)]
        signal, noise = signal + rows.double().square().sum(), noise + (rows - part).double().square().sum()
        start += len(part)
    return float(torch.clamp(10 * torch.log10(signal / noise), max=200)) if noise > 0 else 200.0
