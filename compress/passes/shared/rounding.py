"""Rounding of linear layers: each weight to its nearest code, or so that what the layer gives changes least.

Letters: N outputs, K inputs, G groups of inputs that share a scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from calibration.gptq import Gram, spread_rounding
from calibration.observe import Magnitudes
from calibration.ranges import Method, activation_scale, weight_grid, weight_scales
from compress.models.transformer.quantized import LinearQuantization, QuantizedLinear, rounded_input, spread
from export.graph.number_formats import FORMATS


@dataclass(frozen=True)
class Ranges:
    """How what the largest code stands for is chosen."""

    method: Method
    percentile: float

    def quantized(self, linear: nn.Linear, spec: LinearQuantization, seen: Magnitudes | None) -> QuantizedLinear:
        """A layer with weights rounded to the nearest code; static activations need what was `seen` of its input."""
        weight, zero = linear.weight.detach(), None
        if spec.symmetric:
            limits = (self.method, self.percentile, spec.pair_limit)
            scale = weight_scales(weight, spec.group, spec.largest, spec.rounded, *limits)
        else:
            codes = (spec.smallest, spec.largest)
            scale, zero = weight_grid(weight, spec.group, codes, self.method, self.percentile)
        own = None
        if spec.static:
            assert seen is not None
            rounded = partial(rounded_input, activations=spec.activations)
            own = activation_scale(seen, FORMATS[spec.activations].largest, rounded, self.method, self.percentile)
        return QuantizedLinear.of(linear, spec, scale, own, zero)


def round_by_outputs(layer: QuantizedLinear, weight: Tensor, gram: Gram) -> bool:
    """Round weights (N, K) of a layer again, in place and on its grid, for the inputs that `gram` saw.

    Returned is whether these depend on each other, so that damping alone chose between codes.

    Raises:
        ValueError: the inputs hold NaN or Inf.
    """
    spec, codes = layer.spec, layer.weight
    form = FORMATS[spec.weights]
    scale = spread(layer.weight_scale, spec.group, layer.in_features).expand_as(weight)
    zero = 0 if layer.weight_zero is None else spread(layer.weight_zero.float(), spec.group, layer.in_features)
    zero = torch.as_tensor(zero, dtype=torch.float32).expand_as(weight)
    done = [False] * layer.in_features

    def rounded(column: int, values: Tensor) -> Tensor:
        made = form.rounded(values / scale[:, column] + zero[:, column], spec.smallest, spec.largest)
        neighbour = column ^ 1
        if spec.pair_limit is not None and neighbour < len(done) and done[neighbour]:
            other = codes[:, neighbour].float()
            made = made.clamp(-spec.pair_limit - other, spec.pair_limit - other)
        codes[:, column], done[column] = made.to(codes.dtype), True
        return (made - zero[:, column]) * scale[:, column]

    return spread_rounding(weight, gram.matrix, rounded)
