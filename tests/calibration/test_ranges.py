"""Scales against values worked by hand, NumPy's percentile and a brute-force search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration import ranges
from calibration.observe import BINS, Magnitudes
from calibration.ranges import CLIPS, activation_scale, weight_grid, weight_scales
from compress.models.transformer.quantized import spread


def rounded(scaled):
    """int4: -7 to 7."""
    return scaled.round().clamp(-7, 7)


def observed(x):
    magnitudes = Magnitudes()
    magnitudes.add(x)
    return magnitudes


def test_absmax_makes_the_largest_weight_the_largest_code():
    weight = torch.tensor([[1.0, -14.0, 3.0], [0.7, 0.0, 0.1]])
    torch.testing.assert_close(weight_scales(weight, 0, 7, rounded, "absmax", 0), torch.tensor([[2.0], [0.1]]))


def test_each_group_has_its_own_scale_and_the_last_may_be_short():
    weight = torch.tensor([[7.0, 1.0, -14.0, 2.0, 21.0]])
    torch.testing.assert_close(weight_scales(weight, 2, 7, rounded, "absmax", 0), torch.tensor([[1.0, 2.0, 3.0]]))


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9])
def test_percentiles_are_numpys(percentile):
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(1))
    by_row = weight_scales(weight, 0, 7, rounded, "percentile", percentile)[:, 0]
    np.testing.assert_allclose(by_row, np.percentile(weight.abs().numpy(), percentile, axis=1) / 7, rtol=1e-5)
    by_group = weight_scales(weight, 16, 7, rounded, "percentile", percentile)
    assert by_group.shape == (5, 3)
    last = np.percentile(weight[:, 32:].abs().numpy(), percentile, axis=1)  # without the zeros that fill the group
    np.testing.assert_allclose(by_group[:, 2], last / 7, rtol=1e-5)


@pytest.mark.parametrize("group", [0, 16])
def test_mse_finds_the_clip_of_least_squared_error(group):
    weight = torch.randn(4, 40, generator=torch.Generator().manual_seed(2)) ** 3
    found = weight_scales(weight, group, 7, rounded, "mse", 0)
    width = group or 40
    for row in range(4):
        for index, start in enumerate(range(0, 40, width)):
            part = weight[row, start : start + width].double().numpy()
            tried = [
                (((np.clip(np.rint(part / scale), -7, 7) * scale - part) ** 2).sum(), -scale)
                for scale in np.abs(part).max() * CLIPS.double().numpy() / 7
            ]
            assert float(found[row, index]) == pytest.approx(-min(tried)[1], rel=1e-5)
    assert (found < weight_scales(weight, group, 7, rounded, "absmax", 0)).any(), "outliers are clipped"


def test_mse_keeps_the_whole_range_where_every_clip_is_worse_or_equal():
    weight = torch.tensor([[7.0, -7.0, 7.0, 3.0]])
    assert weight_scales(weight, 0, 7, rounded, "mse", 0).tolist() == [[1.0]]


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse"])
def test_weights_that_are_all_zero_get_a_scale_that_engines_accept(method):
    weight = torch.tensor([[0.0] * 4, [1e-44] * 4, [0, 0, 0, 7.0]])
    scales = weight_scales(weight, 0, 7, rounded, method, 50)
    assert scales[:2].tolist() == [[1.0], [1.0]]
    assert scales[2] == pytest.approx(1.0), "a percentile of 0 falls back to the absmax"


def test_activation_scales_by_absmax_and_percentile():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(3))
    assert activation_scale(observed(x), 7, rounded, "absmax", 0) == pytest.approx(float(x.abs().max()) / 7)
    wanted = np.percentile(x.abs().numpy(), 99)
    found = activation_scale(observed(x), 7, rounded, "percentile", 99) * 7
    assert found == pytest.approx(wanted, abs=2 * observed(x).top / BINS)


def test_activation_mse_is_as_good_as_a_search_over_the_values_themselves():
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(4)).double() ** 3

    def error(scale):
        return float((rounded(x / scale) * scale - x).square().sum())

    found = activation_scale(observed(x), 7, rounded, "mse", 0)
    least = min(error(float(share) * float(x.abs().max()) / 7) for share in CLIPS)
    assert error(found) == pytest.approx(least, rel=1e-3)
    assert error(found) < 0.9 * error(float(x.abs().max()) / 7)


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse"])
def test_activations_that_are_all_zero_get_a_scale_that_engines_accept(method):
    for x in (torch.zeros(3), torch.full((3,), 1e-44)):
        assert activation_scale(observed(x), 127, torch.round, method, 99.9) == 1.0


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse"])
@pytest.mark.parametrize("group", [0, 16])
def test_ranges_are_the_same_however_many_rows_are_looked_at_together(method, group, monkeypatch):
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(0))
    whole = weight_scales(weight, group, 7, rounded, method, 90)
    monkeypatch.setattr(ranges, "TOGETHER", 100)
    assert torch.equal(weight_scales(weight, group, 7, rounded, method, 90), whole)


@pytest.mark.parametrize("group", [0, 8])
def test_zero_points_put_a_range_where_the_weights_are(group):
    weight = torch.rand(6, 40, generator=torch.Generator().manual_seed(5)) + 1.0  # 1 to 2: 0 is in the range too
    scale, zero = weight_grid(weight, group, (-8, 7), "absmax", 0)
    top = ranges.in_groups(weight, group).amax(dim=-1)
    torch.testing.assert_close(scale, top / 15)
    assert (zero == -8).all()
    codes = (weight / spread(scale, group, 40)).round() + spread(zero, group, 40)
    assert codes.min() >= -8
    assert codes.max() == 7


def test_the_zero_point_and_scale_of_least_error_are_found():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(6)).exp()
    weight[0] -= 3

    def error(scale, zero):
        codes = ((weight / scale).round() + zero).clamp(-2, 1)
        return ((codes - zero) * scale - weight).square().sum(dim=1)

    scale, zero = weight_grid(weight, 0, (-2, 1), "mse", 0)
    low, high = weight.amin(dim=1, keepdim=True).clamp(max=0), weight.amax(dim=1, keepdim=True).clamp(min=0)
    wanted = torch.full((4,), torch.inf)
    for share in CLIPS.tolist():
        step = (high - low) * share / 3
        wanted = torch.minimum(wanted, error(step, (-2 - low * share / step).round().clamp(-2, 1)))
    torch.testing.assert_close(error(scale, zero), wanted)
    assert (wanted < error(*weight_grid(weight, 0, (-2, 1), "absmax", 0))).any()


def test_a_row_of_zeros_has_a_scale_that_engines_accept_and_weights_of_zero():
    scale, zero = weight_grid(torch.zeros(1, 16), 16, (-8, 7), "mse", 0)
    assert scale.tolist() == [[1.0]]
    assert float((torch.zeros(1) + zero - zero).abs().max()) == 0
