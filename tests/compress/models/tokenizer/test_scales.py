"""The multi-scale quantizer against interpolation written out scale by scale, as VAR's paper has it (algorithm 1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compress.models.tokenizer.codebook import Codebook
from compress.models.tokenizer.scales import MultiScaleQuantizer, ScalesConfig, resize_matrix

SIDES = (1, 2, 3, 5, 6, 8)


@pytest.fixture(scope="module")
def quantizer() -> MultiScaleQuantizer:
    torch.manual_seed(1)
    return MultiScaleQuantizer(Codebook(32, 6), ScalesConfig(SIDES)).eval().requires_grad_(False)


def enlarged(quantizer: MultiScaleQuantizer, codes: Tensor, scale: int) -> Tensor:
    """One scale's share by interpolation; ticks 1/12, 13/36, 23/36, 11/12 are nearest to fifths as listed."""
    maps = quantizer.embedding(codes).permute(0, 3, 1, 2)
    if scale < len(SIDES) - 1:
        maps = functional.interpolate(maps, size=(8, 8), mode="bicubic")
    conv = quantizer.smooth[(0, 0, 1, 2, 3, 3)[scale]]
    return 0.5 * maps + 0.5 * conv(maps)


def test_the_convolutions_are_those_of_the_nearest_tick() -> None:
    assert [ScalesConfig(SIDES).conv_of(scale) for scale in range(6)] == [0, 0, 1, 2, 3, 3]
    # Of VAR's ten scales the third and the eighth lie between two ticks; rounding decides as in the published code.
    ten = ScalesConfig((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert [ten.conv_of(scale) for scale in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [ScalesConfig(SIDES, convs=1).conv_of(scale) for scale in range(6)] == [0] * 6
    assert ScalesConfig((4,)).conv_of(0) == 0


@pytest.mark.parametrize("mode", ["bicubic", "area"])
@pytest.mark.parametrize(("before", "after"), [(13, 16), (16, 13), (1, 16), (5, 8), (16, 10)])
def test_resizing_by_matrix_is_interpolation(mode: str, before: int, after: int) -> None:
    maps = torch.randn(2, 3, before, before)
    wanted = functional.interpolate(maps, size=(after, after), mode=mode)
    found = (maps.flatten(2) @ resize_matrix(before, after, mode).T).reshape(2, 3, after, after)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_each_scale_takes_what_the_coarser_ones_left(quantizer: MultiScaleQuantizer) -> None:
    latents = torch.randn(2, 6, 8, 8)
    left, tokens = latents.clone(), []
    for scale, side in enumerate(SIDES):
        shown = left if side == 8 else functional.interpolate(left, size=(side, side), mode="area")
        points = shown.permute(0, 2, 3, 1).reshape(-1, 6)
        codes = torch.cdist(points, quantizer.embedding.weight).argmin(1).reshape(2, side, side)
        left = left - enlarged(quantizer, codes, scale)
        tokens.append(codes.flatten(1))
    found = quantizer.quantize(latents)
    assert torch.equal(found, torch.cat(tokens, dim=1))
    assert torch.allclose(quantizer.lookup(found), latents - left, atol=1e-5)


def test_what_the_transformer_is_told_is_the_sum_so_far(quantizer: MultiScaleQuantizer) -> None:
    tokens = torch.randint(0, 32, (2, quantizer.config.length))
    start, sums, rows = 0, torch.zeros(2, 6, 8, 8), []
    for scale, side in enumerate(SIDES[:-1]):
        codes = tokens[:, start : start + side**2].reshape(2, side, side)
        sums = sums + enlarged(quantizer, codes, scale)
        after = SIDES[scale + 1]
        shown = functional.interpolate(sums, size=(after, after), mode="area")
        rows.append(shown.flatten(2).transpose(1, 2))
        start += side**2
    found = quantizer.features(tokens)
    assert found.shape == (2, quantizer.config.length - 1, 6)
    assert torch.allclose(found, torch.cat(rows, dim=1), atol=1e-5)


def test_rows_of_a_scale_depend_on_coarser_scales_only(quantizer: MultiScaleQuantizer) -> None:
    tokens = torch.randint(0, 32, (1, quantizer.config.length))
    whole = quantizer.features(tokens)
    for start in quantizer.config.starts[1:-1]:
        known = tokens.clone()
        known[:, start:] = 0
        end = next(end for end in quantizer.config.starts if end > start) - 1
        assert torch.equal(quantizer.features(known)[:, :end], whole[:, :end])
        assert torch.equal(quantizer.features(tokens[:, :start]), whole[:, :end])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), r"sides \(\): need at least one"),
        (((2, 1),), r"sides \(2, 1\): need at least one, none finer than the next"),
        (((1, 2), 0), "convs 0: must be at least 1"),
    ],
)
def test_scales_that_are_none_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScalesConfig(*arguments)
