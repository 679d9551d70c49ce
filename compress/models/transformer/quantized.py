"""Linear layers with integer or FP8 weights, whose forward computes what the engine will compute.

Letters: B batch, T tokens, K inputs, N outputs, G groups of inputs that share a weight scale.

The formats are those of `export.graph.number_formats`: int8 weights in -127..127, int4 in -8..7, int2 in -2..1, FP8
E4M3. A weight is (code - zero point) * scale; symmetric layers have no zero points. Sums are in float32; an engine's
integer sums differ from them by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.ranges import rows_together
from compress.core.settings import MOST_WIDTH, InputError, shown
from export.graph.number_formats import FORMATS
from export.graph.saturation import PAIR_LIMIT, ReduceRange, limited

Weights = Literal["int8", "int4", "int2", "fp8"]
Activations = Literal["none", "int8", "fp8"]

# Of any two weights the sum stays within what `export.graph.saturation` allows of neighbours.
LARGEST_REDUCED = PAIR_LIMIT / 2
# ONNX Runtime's dynamic kernels cut the inputs into blocks of a power of two; 128 where the weights have no groups.
DEFAULT_BLOCK = 128
SMALLEST_GROUP = 16


@dataclass(frozen=True)
class LinearQuantization:
    """The number formats of one layer.

    `dynamic` activations get a scale for every token and block of inputs as they come, static ones had theirs
    calibrated. `group` inputs share a weight scale; 0: one scale for each output channel. Weights that are not
    `symmetric` have a zero point beside each scale. `reduce_range` keeps int8 products from saturating on x86
    processors without VNNI: ``pairs`` limits the sums of neighbouring weights, which is enough for ONNX Runtime; True
    keeps all within -64..64, whichever are added.
    """

    weights: Weights
    activations: Activations = "none"
    dynamic: bool = False
    group: int = 0
    reduce_range: ReduceRange = False
    symmetric: bool = True

    def __post_init__(self) -> None:
        """Refuse combinations that no target computes.

        Raises:
            ValueError: says which settings do not go together and what would.
        """
        form = FORMATS[self.weights]
        formats = f"weights {self.weights} with activations {self.activations}"
        if self.activations not in ("none", form.activations):
            raise ValueError(f"{formats}: no engine multiplies these; use activations {form.activations} or none")
        if self.dynamic and (self.activations == "none" or not form.dynamic):
            raise ValueError(f"dynamic with activations {self.activations}: only int8 activations can be dynamic")
        if self.static and not form.static:
            raise ValueError(
                f"{formats}: no engine has a static kernel for these; use dynamic: true or activations none"
            )
        if (self.group or not self.symmetric) and (self.static or not form.groups):
            asked = f"group {shown(self.group)}" if self.group else "symmetric false"
            raise ValueError(
                f"{asked} with weights {self.weights} and {'static ' if self.static else ''}activations "
                f"{self.activations}: groups and zero points are for int8, int4 and int2 weights with dynamic or no "
                f"activations; use {'group 0' if self.group else 'symmetric true'}"
            )
        if self.group and (not SMALLEST_GROUP <= self.group <= MOST_WIDTH or self.group & (self.group - 1)):
            raise ValueError(
                f"group {shown(self.group)}: must be 0 or a power of two from {SMALLEST_GROUP} to {MOST_WIDTH}"
            )
        if self.reduce_range and self.weights != "int8":
            raise ValueError(f"reduce_range with weights {self.weights}: only int8 weights have a range to reduce")

    @property
    def static(self) -> bool:
        """Whether activations have one calibrated scale."""
        return self.activations != "none" and not self.dynamic

    @property
    def largest(self) -> float:
        """The largest code of a weight."""
        return LARGEST_REDUCED if self.reduce_range is True else FORMATS[self.weights].largest

    @property
    def smallest(self) -> float:
        """The smallest code of a weight."""
        return -LARGEST_REDUCED if self.reduce_range is True else FORMATS[self.weights].weights_from

    @property
    def pair_limit(self) -> float | None:
        """The largest sum of two neighbouring weights before scaling, where that is limited."""
        return PAIR_LIMIT if self.reduce_range == "pairs" else None

    @property
    def storage(self) -> torch.dtype:
        """What weights are kept as; codes of fewer bits lie in int8."""
        kept: torch.dtype = getattr(torch, FORMATS[self.weights].storage)
        return kept

    def rounded(self, scaled: Tensor) -> Tensor:
        """Scaled weights (..., K) as the format holds them, in the type they came in."""
        codes = FORMATS[self.weights].rounded(scaled, self.smallest, self.largest)
        return torch.from_numpy(limited(codes.numpy())) if self.pair_limit is not None else codes

    def groups(self, inputs: int) -> int:
        """Weight scales of one output channel."""
        return -(-inputs // self.group) if self.group else 1


def spread(scale: Tensor, group: int, inputs: int) -> Tensor:
    """Scales (..., G) as one for each input: (..., K), or (..., 1) where there are no groups."""
    return scale[..., None].expand(*scale.shape, group).flatten(-2)[..., :inputs] if group else scale


def quantize_weight(weight: Tensor, scale: Tensor, spec: LinearQuantization, zero: Tensor | None = None) -> Tensor:
    """Weights (N, K) as codes in storage form, rounded half to even, by their scales and zero points (N, G)."""
    scaled = weight / spread(scale, spec.group, weight.shape[1])
    if zero is not None:
        scaled = scaled + spread(zero, spec.group, weight.shape[1])
    return spec.rounded(scaled).to(spec.storage)


def dequantize_weight(weight: Tensor, scale: Tensor, spec: LinearQuantization, zero: Tensor | None = None) -> Tensor:
    """The weights (N, K) that stored codes stand for, by their scales and zero points (N, G), in float32."""
    codes = weight.float()
    if zero is not None:
        codes = codes - spread(zero, spec.group, weight.shape[1])
    return codes * spread(scale, spec.group, weight.shape[1])


def rounded_input(scaled: Tensor, activations: Activations) -> Tensor:
    """Scaled activations as the format holds them, in the type they came in."""
    form = FORMATS[activations]
    return form.rounded(scaled, form.smallest, form.largest)


def quantize_static(x: Tensor, scale: Tensor, activations: Activations) -> Tensor:
    """Activations as QuantizeLinear and DequantizeLinear leave them, with one scale for all."""
    return rounded_input(x / scale, activations) * scale


def quantize_dynamic(x: Tensor, block: int) -> Tensor:
    """Activations (..., K) rounded to int8 with a scale for each token and block of inputs, absmax / 127.

    This is what com.microsoft MatMulNBits does with accuracy_level 4; the last block may be short.
    """
    short = -x.shape[-1] % block
    blocks: Tensor = functional.pad(x, (0, short)).unflatten(-1, (-1, block))  # (..., K / block, block)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    rounded = (blocks * inverse).round() * (largest / 127)
    return rounded.flatten(-2)[..., : x.shape[-1]]


class Quantized(nn.Module):
    """A layer whose weights are codes, so that they are buffers and no parameters."""

    weight: Tensor
    bias: Tensor | None


class QuantizedLinear(Quantized):
    """y = x W^T + b with W in few bits, and x rounded likewise where `activations` says so."""

    weight_scale: Tensor
    weight_zero: Tensor | None
    activation_scale: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        spec: LinearQuantization,
        bias: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.spec = inputs, outputs, spec
        ones = torch.ones(outputs, spec.groups(inputs), device=device)
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=spec.storage, device=device))
        self.register_buffer("weight_scale", ones)
        zeros = torch.zeros(outputs, spec.groups(inputs), dtype=torch.int8, device=device)
        self.register_buffer("weight_zero", None if spec.symmetric else zeros)
        self.register_buffer("activation_scale", torch.ones((), device=device) if spec.static else None)
        self.register_buffer("bias", torch.zeros(outputs, device=device) if bias else None)

    @classmethod
    def of(
        cls,
        linear: nn.Linear,
        spec: LinearQuantization,
        weight_scale: Tensor,
        activation_scale: float | None = None,
        weight_zero: Tensor | None = None,
    ) -> QuantizedLinear:
        """A float layer, rounded to the nearest code by these scales (N, G).

        Static activations need their scale, weights that are not symmetric their zero points (N, G).
        """
        module = cls(linear.in_features, linear.out_features, spec, linear.bias is not None)
        module.weight_scale.copy_(weight_scale)
        if module.weight_zero is not None:
            if weight_zero is None:
                raise ValueError("weights that are not symmetric need zero points")
            module.weight_zero.copy_(weight_zero)
        start = 0
        for weight in linear.weight.detach().split(rows_together(linear.in_features)):
            rows = slice(start, start + len(weight))  # float copies of a whole head would be several times its size
            zero = None if module.weight_zero is None else module.weight_zero[rows]
            module.weight[rows] = quantize_weight(weight, module.weight_scale[rows], spec, zero)
            start += len(weight)
        if module.bias is not None:
            module.bias.copy_(linear.bias.detach())
        if module.activation_scale is not None:
            if activation_scale is None:
                raise ValueError(f"static {spec.activations} activations need an activation scale")
            module.activation_scale.fill_(activation_scale)
        return module.train(linear.training)

    def dequantized(self, rows: slice = slice(None)) -> Tensor:
        """The weights (N, K), or some of their rows, as they act, in float32."""
        zero = None if self.weight_zero is None else self.weight_zero[rows]
        return dequantize_weight(self.weight[rows], self.weight_scale[rows], self.spec, zero)

    def dequantized_rows(self) -> Iterator[Tensor]:
        """The same a few rows at a time."""
        step = rows_together(self.in_features)
        for start in range(0, self.out_features, step):
            yield self.dequantized(slice(start, start + step))

    def quantized_input(self, x: Tensor) -> Tensor:
        """Inputs (..., K) as the product sees them."""
        if self.activation_scale is not None:
            return quantize_static(x, self.activation_scale, self.spec.activations)
        return quantize_dynamic(x, self.spec.group or DEFAULT_BLOCK) if self.spec.dynamic else x

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., N) of inputs (..., K)."""
        if torch.compiler.is_exporting():
            y = self.symbol(x)
            return y if self.bias is None else y + self.bias
        return functional.linear(self.quantized_input(x), self.dequantized(), self.bias)

    def symbol(self, x: Tensor) -> Tensor:
        """The layer as one node `compress::QuantizedLinear`, which `export` lowers for its target."""
        inputs = [x, self.weight, self.weight_scale]
        inputs += [each for each in (self.weight_zero, self.activation_scale) if each is not None]
        return torch.onnx.ops.symbolic(
            "compress::QuantizedLinear",
            inputs,
            {
                "weights": self.spec.weights,
                "activations": self.spec.activations,
                "dynamic": int(self.spec.dynamic),
                "group": self.spec.group,
                "symmetric": int(self.spec.symmetric),
            },
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.out_features),
            version=1,
        )

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.spec}"


def quantizations(transformer: nn.Module) -> dict[str, LinearQuantization]:
    """The quantized layers by their state-dict names."""
    return {name: module.spec for name, module in transformer.named_modules() if isinstance(module, QuantizedLinear)}


def install(transformer: nn.Module, specs: Mapping[str, LinearQuantization], where: str) -> None:
    """Put empty quantized layers in place of float ones, so that a quantized state dict can be loaded.

    Raises:
        InputError: a name is not a linear layer of this transformer.
    """
    for name, spec in specs.items():
        linear = dict(transformer.named_modules()).get(name)
        if not isinstance(linear, nn.Linear):
            raise InputError(f"{where}.{name}: is not a linear layer of this model")
        replace_module(
            transformer,
            name,
            QuantizedLinear(
                linear.in_features, linear.out_features, spec, linear.bias is not None, linear.weight.device
            ).train(linear.training),
        )


def replace_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module at this dotted name."""
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, module)


def parameter_count(transformer: nn.Module) -> int:
    """Weights and biases, embeddings included, whatever their precision; scales and tables do not count.

    Neither does what a next-scale model borrows of its tokenizer.
    """
    own = (each for name, each in transformer.named_parameters() if not name.startswith("scales."))
    count = sum(parameter.numel() for parameter in own)
    for module in transformer.modules():
        if isinstance(module, Quantized):
            count += module.weight.numel() + (0 if module.bias is None else module.bias.numel())
    return count
