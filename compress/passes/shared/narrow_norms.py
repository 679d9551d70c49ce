"""Norms of a narrower stream, set right for the channels that are left.

Letters: B pictures of a batch, S positions, D channels, n those that are kept.

A norm divides by the root mean square of all channels, or by their standard deviation. Without some of them it divides
by that of the rest, so that what it gives is wrong by the ratio of the two. Its gain makes up for the mean of that
ratio on pictures, which is also the factor of least squares: |x'|^2 / (rms rms') over |x'|^2 / rms'^2.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from calibration.tokens import TokenSet
from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes.shared.blockwise import TOGETHER
from compress.passes.shared.channels import NORMS

Norm = nn.RMSNorm | nn.LayerNorm


def norms(transformer: TokenTransformer) -> dict[str, Norm]:
    """The norms of the stream's channels, by name."""
    return {
        name: module
        for name, module in transformer.named_modules()
        if isinstance(module, Norm) and re.fullmatch(NORMS, f"{name}.weight")
    }


def correct_gains(narrow: TokenTransformer, before: TokenTransformer, kept: Tensor, tokens: TokenSet) -> None:
    """Multiply the gains of a transformer, in place, so that its norms give of the channels `kept` what `before` did.

    Both read the streams of `before`; what is written into them is another matter.
    """
    watched = norms(before)
    totals, counts = dict.fromkeys(watched, 0.0), dict.fromkeys(watched, 0)

    def look(name: str, norm: Norm) -> Any:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].double()
            found = spread(norm, x[..., kept]) / spread(norm, x)
            totals[name] += float(found.sum())
            counts[name] += found.numel()

        return hook

    hooks = [norm.register_forward_pre_hook(look(name, norm)) for name, norm in watched.items()]
    try:
        with torch.no_grad():
            for batch in examples(before.config.shape, tokens).chunks(TOGETHER):
                before(*batch.tensors())
    finally:
        for handle in hooks:
            handle.remove()
    with torch.no_grad():
        for name in watched:
            narrow.get_parameter(f"{name}.weight").mul_(totals[name] / counts[name])


def spread(norm: Norm, x: Tensor) -> Tensor:
    """What a norm divides x (..., D) by, (...)."""
    deviation = x - x.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x
    epsilon = norm.eps if norm.eps is not None else torch.finfo(torch.float32).eps
    return (deviation.square().mean(dim=-1) + epsilon).sqrt()
