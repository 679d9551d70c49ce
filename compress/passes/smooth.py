"""Move the large inputs of products into their weights, which changes nothing until both are rounded."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from calibration.observe import Magnitudes
from calibration.ranges import activation_scale
from calibration.tokens import TokenSet
from compress.core.settings import setting
from compress.models.image_model import ImageModel
from compress.models.transformer.quantized import rounded_input
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.blockwise import Streams, stream_bytes
from compress.passes.shared.folds import Fold, factors_of, folds_of
from compress.passes.shared.pruning import check_float
from export.graph.number_formats import FORMATS

ROWS = 2048  # of inputs that a layer is judged by, spread over the calibration pictures
LARGEST = FORMATS["int8"].largest


@dataclass(frozen=True, kw_only=True)
class SmoothNotes(Notes):
    """What was folded."""

    layers: int = setting(doc="products whose inputs were divided")
    of: int = setting(doc="products that there are in the blocks")
    alphas: dict[str, float] = setting(doc="how far the inputs went into the weights, by the products that read them")
    error_ratio_median: float = setting(
        doc="squared error of int8 products after it over that before, over calibration inputs; the median"
    )


@dataclass(frozen=True)
class Smooth(TorchPass):
    """SmoothQuant (arXiv 2211.10438): inputs that are large for all tokens are divided, their weights multiplied.

    The model computes the same, to rounding; int8 activations with one scale for a layer lose less behind it. For each
    layer that can be folded the exponent `alpha` is the one of those given whose int8 products are nearest to the exact
    ones on calibration inputs, or none where that is nearer still. It folds into norms, into modulation by a layer of
    the block's own, from ``ffn.up`` to ``ffn.down`` of gated networks, and from ``attention.value`` to
    ``attention.output``. Nothing can be folded into norms behind which the residual stream reads too (post-norm), norms
    without a gain, modulation that blocks share, or through GELU without a gate.
    """

    alpha: tuple[float, ...] = setting(
        (0.4, 0.5, 0.6, 0.7, 0.8, 0.9), doc="exponents that are tried for each layer; one is taken as it is",
        low=0, high=1, fewest=1,
    )  # fmt: skip

    exact: ClassVar[bool] = True

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and one with nothing to fold."""
        check_float(model, self.name)
        transformer = model.transformer
        layers = zip(transformer.config.layers, transformer.blocks, strict=True)
        if not any(any(folds_of(transformer.config, layer, block)) for layer, block in layers):
            raise PassError("no layer of this model can be folded")

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with its inputs divided.

        Raises:
            PassError: activations hold NaN or Inf.
        """
        transformer = copy.deepcopy(model.transformer)
        tokens = context.calibration_tokens()
        streams = Streams(transformer, tokens)
        chosen: dict[str, float] = {}
        ratios: list[float] = []
        with torch.no_grad():
            for index, (layer, block) in enumerate(zip(transformer.config.layers, transformer.blocks, strict=True)):
                folds = list(folds_of(transformer.config, layer, block))
                seen: dict[str, list[Tensor]] = {fold.readers[0]: [] for fold in folds}
                streams.watch(block, seen, partial(take, seen, -(-ROWS // len(streams.parts))))
                for fold in folds:
                    name = f"blocks.{index}.{fold.readers[0]}"
                    alpha, ratio = self.fold(block, fold, torch.cat(seen[fold.readers[0]]), name)
                    ratios.append(ratio)
                    if alpha is not None:
                        chosen[name] = alpha
                streams.advance(block)
                context.report(index + 1, len(transformer.blocks), {})
        notes = SmoothNotes(
            layers=len(chosen),
            of=sum(1 for _ in transformer.linears()),
            alphas=chosen,
            error_ratio_median=round(float(torch.tensor(ratios).median()), 4),
        )
        return Outcome(model.with_transformer(transformer), notes)

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of the calibration pictures."""
        return stream_bytes(reference.transformer, calibration)

    def fold(self, block: nn.Module, fold: Fold, x: Tensor, name: str) -> tuple[float | None, float]:
        """Apply the best exponent to layers that read x (R, K), if one is better than none; the error it leaves."""
        if not bool(torch.isfinite(x).all()):
            raise PassError(f"{name}: activations hold NaN or Inf")
        linears = [block.get_submodule(reader) for reader in fold.readers]
        weight = torch.cat([linear.weight for linear in linears if isinstance(linear, nn.Linear)])  # (N, K)
        reach, largest = x.abs().amax(dim=0), weight.abs().amax(dim=0)
        exact = x @ weight.mT
        plain = error_of(x, weight, exact)
        tried = []
        for alpha in self.alpha:
            factors = fold.together(factors_of(reach, largest, alpha))
            tried.append((error_of(x / factors, weight * factors, exact), alpha, factors))
        error, alpha, factors = min(tried, key=lambda each: each[0])
        if error >= plain and len(self.alpha) > 1:
            return None, 1.0
        fold.apply(block, factors)
        return alpha, error / plain if plain > 0 else 1.0


def take(seen: dict[str, list[Tensor]], most: int, name: str, x: Tensor) -> None:
    """Keep some rows of a batch's inputs (rows, K), evenly."""
    seen[name].append(x[:: max(1, len(x) // most)])


def error_of(x: Tensor, weight: Tensor, exact: Tensor) -> float:
    """Squared error of x (R, K) times weights (N, K) in int8: one scale for x, one for each row of weights."""
    seen = Magnitudes()
    seen.add(x)
    scale = activation_scale(seen, LARGEST, partial(rounded_input, activations="int8"), "mse", 0)
    rounded = rounded_input(x / scale, "int8") * scale
    steps = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return float((rounded @ ((weight / steps).round() * steps).mT - exact).square().sum())
