"""Trainable stand-ins of quantized layers: the same rounding forward, gradients straight through it (arXiv 1308.3432).

Scales stay fixed. Values that the range clips get no gradient, since moving them a little changes nothing.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn import functional

from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import (
    QuantizedLinear,
    dequantize_weight,
    quantize_weight,
    replace_module,
    spread,
)
from export.graph.number_formats import FORMATS


class StraightThroughLinear(nn.Module):
    """A quantized layer whose float weights can be trained; it computes what the quantized one would."""

    def __init__(self, quantized: QuantizedLinear) -> None:
        super().__init__()
        self.quantized = quantized
        self.weight = nn.Parameter(quantized.dequantized())
        self.bias = None if quantized.bias is None else nn.Parameter(quantized.bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., N) of inputs (..., K)."""
        quantized, spec = self.quantized, self.quantized.spec
        scale = quantized.weight_scale
        reach = spread(scale, spec.group, self.weight.shape[1]) * spec.largest
        rounded = dequantize_weight(quantize_weight(self.weight.detach(), scale, spec), scale, spec)
        weight = straight_through(rounded, self.weight.clamp(-reach, reach))
        if quantized.activation_scale is not None:
            top = float(quantized.activation_scale) * FORMATS[spec.activations].largest
            x = straight_through(quantized.quantized_input(x), x.clamp(-top, top))
        elif spec.dynamic:
            x = straight_through(quantized.quantized_input(x), x)
        return functional.linear(x, weight, self.bias)

    def rounded(self) -> QuantizedLinear:
        """The quantized layer of the weights as they are now."""
        layer = copy.deepcopy(self.quantized)
        layer.weight.copy_(quantize_weight(self.weight.detach(), layer.weight_scale, layer.spec))
        if layer.bias is not None and self.bias is not None:
            layer.bias.copy_(self.bias.detach())
        return layer


def straight_through(rounded: Tensor, exact: Tensor) -> Tensor:
    """Exactly the rounded values, with the gradient of the exact ones."""
    return rounded.detach() + (exact - exact.detach())  # the difference is 0, so nothing is rounded again


def trainable(transformer: TokenTransformer) -> TokenTransformer:
    """A copy whose every weight can be trained, quantized layers replaced by their stand-ins."""
    student = copy.deepcopy(transformer)
    for name, module in list(student.named_modules()):
        if isinstance(module, QuantizedLinear):
            replace_module(student, name, StraightThroughLinear(module))
    return student


def settled(student: TokenTransformer) -> TokenTransformer:
    """A copy with the stand-ins rounded back into quantized layers."""
    transformer = copy.deepcopy(student)
    for name, module in list(transformer.named_modules()):
        if isinstance(module, StraightThroughLinear):
            replace_module(transformer, name, module.rounded())
    return transformer.eval()
