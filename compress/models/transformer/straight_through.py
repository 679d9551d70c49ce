"""Trainable stand-ins of quantized layers: the same rounding forward, gradients straight through it.

Values that the range clips get no gradient, since moving them a little changes nothing. Scales are fixed, or trained
too (`step_size`); zero points stay.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import (
    QuantizedLinear,
    quantize_weight,
    replace_module,
    rounded_input,
    spread,
)
from compress.models.transformer.step_size import StepSize, straight_through, within
from export.graph.number_formats import FORMATS


class StraightThroughLinear(nn.Module):
    """A quantized layer whose float weights can be trained; it computes what the quantized one would.

    With `learned` scales those of the weights are trained too, and the static one of the inputs, which layers that read
    the same input share: then it is given as `input_step`.
    """

    def __init__(
        self, quantized: QuantizedLinear, *, learned: bool = False, input_step: StepSize | None = None
    ) -> None:
        super().__init__()
        self.quantized = quantized
        self.weight = nn.Parameter(quantized.dequantized())
        self.bias = None if quantized.bias is None else nn.Parameter(quantized.bias.clone())
        spec, inputs = quantized.spec, quantized.in_features
        self.weight_step = StepSize(quantized.weight_scale, spec.group or inputs, spec.largest, learned=learned)
        self.input_step = input_step or input_step_of(quantized, learned=learned)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., N) of inputs (..., K)."""
        quantized, spec = self.quantized, self.quantized.spec
        step = spread(self.weight_step(), spec.group, self.weight.shape[1])
        scaled = within(self.weight / step, self.inside(step.detach()))
        if quantized.weight_zero is None:
            weight = straight_through(spec.rounded(scaled.detach()), scaled) * step
        else:
            zero = spread(quantized.weight_zero, spec.group, self.weight.shape[1])
            weight = (straight_through(spec.rounded((scaled + zero).detach()), scaled + zero) - zero) * step
        if self.input_step is not None:
            x = self.rounded_input(x, self.input_step())
        elif spec.dynamic:
            x = straight_through(quantized.quantized_input(x), x)
        return functional.linear(x, weight, self.bias)

    def inside(self, step: Tensor) -> Tensor:
        """Which weights (N, K) are within the range of their scales, one for each input (N, K) or for all (N, 1)."""
        spec, zero = self.quantized.spec, self.quantized.weight_zero
        middle = 0 if zero is None else spread(zero, spec.group, self.weight.shape[1])
        weight = self.weight.detach()
        return (weight >= (spec.smallest - middle) * step) & (weight <= (spec.largest - middle) * step)

    def rounded_input(self, x: Tensor, step: Tensor) -> Tensor:
        """Inputs (..., K) rounded with one scale for all."""
        form = FORMATS[self.quantized.spec.activations]
        top = form.largest * step.detach()
        scaled = within(x / step, (x.detach() >= -top) & (x.detach() <= top))
        return straight_through(rounded_input(scaled.detach(), self.quantized.spec.activations), scaled) * step

    def rounded(self) -> QuantizedLinear:
        """The quantized layer of the weights and scales as they are now."""
        layer, step = copy.deepcopy(self.quantized), self.weight_step().detach()
        layer.weight.copy_(quantize_weight(self.weight.detach(), step, layer.spec, layer.weight_zero))
        layer.weight_scale.copy_(step)
        if layer.activation_scale is not None and self.input_step is not None:
            layer.activation_scale.copy_(self.input_step().detach())
        if layer.bias is not None and self.bias is not None:
            layer.bias.copy_(self.bias.detach())
        return layer


def input_step_of(quantized: QuantizedLinear, *, learned: bool) -> StepSize | None:
    """The step of a layer's inputs, where it is static."""
    if quantized.activation_scale is None:
        return None
    largest = FORMATS[quantized.spec.activations].largest
    return StepSize(quantized.activation_scale, quantized.in_features, largest, learned=learned)


def trainable(transformer: TokenTransformer, *, learn_scales: bool = False) -> TokenTransformer:
    """A copy whose every weight can be trained, quantized layers replaced by their stand-ins.

    Layers of one module whose inputs have equal scales read the same input (query, key and value; gate and up). They
    keep sharing one scale, because graphs join such products into one.
    """
    student = copy.deepcopy(transformer)
    shared: dict[tuple[str, float], StepSize | None] = {}
    for name, module in list(student.named_modules()):
        if isinstance(module, QuantizedLinear):
            step = None
            if module.activation_scale is not None:
                place = (name.rpartition(".")[0], float(module.activation_scale))
                if place not in shared:
                    shared[place] = input_step_of(module, learned=learn_scales)
                step = shared[place]
            replace_module(student, name, StraightThroughLinear(module, learned=learn_scales, input_step=step))
    return student


def settled(student: TokenTransformer) -> TokenTransformer:
    """A copy with the stand-ins rounded back into quantized layers."""
    transformer = copy.deepcopy(student)
    for name, module in list(transformer.named_modules()):
        if isinstance(module, StraightThroughLinear):
            replace_module(transformer, name, module.rounded())
    return transformer.eval()
