"""Where numbers can be divided in front of linear layers and multiplied back inside of them, without any effect.

Letters: D width, K inputs of the layers, N outputs, d head width.

Each fold is exact: what a layer reads is divided by factors (K,), and the layer's columns are multiplied by them. The
division goes into whatever makes the numbers: a norm's gain, the modulation behind it, the rows of another product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compress.models.transformer.architecture import GATED, LayerConfig, TransformerConfig
from compress.models.transformer.blocks import Block

Divide = Callable[[Tensor], None]
SHIFT, SCALE, FFN_SHIFT, FFN_SCALE = 0, 1, 3, 4  # places among the six vectors of a block's modulation


@dataclass(frozen=True)
class Fold:
    """Linear layers that read the same inputs, by their names in the block, and what divides these.

    `alike` inputs that follow each other must have one factor, such as the heads that read one value head: input
    ``(g * alike + a) * width + w`` has the factor of every other ``a``.
    """

    readers: tuple[str, ...]
    divide: Divide
    alike: int = 1
    width: int = 1

    def together(self, factors: Tensor) -> Tensor:
        """Factors (K,), equal where they must be: the largest of those that belong together."""
        apart = factors.unflatten(0, (-1, self.alike, self.width))
        made: Tensor = apart.amax(dim=1, keepdim=True).expand_as(apart).flatten()
        return made

    def apply(self, block: nn.Module, factors: Tensor) -> None:
        """Divide and multiply, in place; factors (K,) are those of `together`."""
        self.divide(factors)
        for name in self.readers:
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.mul_(factors)


def folds_of(config: TransformerConfig, layer: LayerConfig, block: nn.Module) -> Iterator[Fold]:
    """The folds of a block, from its end to its beginning, so that each sees what those behind it changed."""
    up, value = block.get_submodule("ffn.up"), block.get_submodule("attention.value")
    assert isinstance(up, nn.Linear)
    assert isinstance(value, nn.Linear)
    gated = config.activation in GATED
    if gated and not config.down_rotation:  # behind the activation is a product with `up`; any other is not linear
        yield Fold(("ffn.down",), partial(divide_rows, up, 1, 1))
    if (divide := of_norm(block, "ffn_norm", FFN_SHIFT, FFN_SCALE)) is not None:
        yield Fold(("ffn.gate", "ffn.up") if gated else ("ffn.up",), divide)
    alike, width = layer.heads // layer.kv_heads, config.head_width
    yield Fold(("attention.output",), partial(divide_rows, value, alike, width), alike, width)
    if (divide := of_norm(block, "attention_norm", SHIFT, SCALE)) is not None:
        yield Fold(("attention.query", "attention.key", "attention.value"), divide)


def of_norm(block: nn.Module, name: str, shift: int, scale: int) -> Divide | None:
    """What divides the output of a norm; None where something else reads it, or it has nothing of its own to divide.

    After-norms (BERT) are read by the residual stream too. A modulation that blocks share cannot be divided for one.
    """
    norm = block.get_submodule(name)
    if not isinstance(block, Block) or block.post_norm:
        return None
    if block.modulation is None:
        return partial(divide_norm, norm) if isinstance(getattr(norm, "weight", None), Tensor) else None
    return None if block.modulation.shared else partial(divide_modulation, block.modulation.linear, shift, scale)


def divide_rows(linear: nn.Linear, alike: int, width: int, factors: Tensor) -> None:
    """Divide what a linear layer gives; of factors that belong together (`Fold.alike`) it has one."""
    own = factors.unflatten(0, (-1, alike, width))[:, 0].flatten()  # (N,)
    linear.weight.div_(own[:, None])
    if linear.bias is not None:
        linear.bias.div_(own)


def divide_norm(norm: nn.Module, factors: Tensor) -> None:
    """Divide what a norm gives, by its gain and its shift."""
    for name in ("weight", "bias"):
        if (numbers := getattr(norm, name, None)) is not None:
            numbers.div_(factors)


def divide_modulation(linear: nn.Linear, shift: int, scale: int, factors: Tensor) -> None:
    """Divide x (1 + scale) + shift, by the rows of the layer that makes scale and shift."""
    parts = linear.weight.unflatten(0, (-1, len(factors)))  # (6, D, C)
    biases = linear.bias.unflatten(0, (-1, len(factors)))  # (6, D)
    for part in (shift, scale):
        parts[part].div_(factors[:, None])
        biases[part].div_(factors)
    biases[scale].add_(1 / factors - 1)


def factors_of(reach: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """SmoothQuant's factors (K,): inputs to the power of alpha, over weights to that of 1 - alpha.

    `reach` and `weights` (K,) are the largest magnitudes of each input and of the weights that read it (arXiv
    2211.10438, equation 4). An input that is always 0, or that nothing reads, keeps the factor 1. (Factors
    rounded to powers of two would change no bit, but win half as much: KL 1.09e-4 instead of 0.98e-4 on a
    model of photographs, from 1.35e-4.)
    """
    known = (reach > 0) & (weights > 0)
    wanted = torch.where(known, reach, 1.0) ** alpha / torch.where(known, weights, 1.0) ** (1 - alpha)
    return torch.where(known, wanted, 1.0)
