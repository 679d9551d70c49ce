"""Histograms of magnitudes against sorted values, whatever the order of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.observe import BINS, Magnitudes


def seen(*tensors):
    magnitudes = Magnitudes()
    for tensor in tensors:
        magnitudes.add(tensor)
    return magnitudes


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999, 1.0])
def test_percentiles_are_order_statistics_to_a_bins_width(share):
    x = torch.randn(50, 400, generator=torch.Generator().manual_seed(0)) ** 3
    magnitudes = seen(*x)
    wanted = np.sort(x.abs().numpy(), axis=None)[round(share * x.numel()) - 1]
    width = magnitudes.top / BINS
    assert wanted <= magnitudes.percentile(share) <= wanted + width
    assert magnitudes.largest == x.abs().max()


def test_a_share_of_a_thousandth_less_than_all_leaves_one_of_a_thousand_out():
    x = torch.full((1000,), 0.5)
    x[17] = 8.0
    assert seen(x).percentile(0.999) == pytest.approx(0.5, abs=8 / BINS)
    assert seen(x).percentile(99.9 / 100) == pytest.approx(0.5, abs=8 / BINS)  # a little more than 0.999 in binary
    assert seen(x).percentile(1.0) == 8.0


def test_bins_merge_in_pairs_when_a_larger_value_comes():
    magnitudes = seen(torch.tensor([0.3, -0.7, 1.0]))
    assert magnitudes.top == 1.0
    assert magnitudes.counts.nonzero().flatten().tolist() == [int(0.3 * BINS), int(0.7 * BINS), BINS - 1]
    magnitudes.add(torch.tensor([3.5]))
    assert magnitudes.top == 4.0
    found = magnitudes.counts.nonzero().flatten().tolist()
    assert found == [int(0.3 * BINS) // 4, int(0.7 * BINS) // 4, (BINS - 1) // 4, int(3.5 / 4 * BINS)]


def test_the_order_of_the_data_does_not_matter():
    parts = [torch.zeros(5), torch.rand(7, 3), 90 * torch.rand(20), 1e-3 * torch.rand(11), torch.tensor([])]
    one, other = seen(*parts), seen(*reversed(parts))
    assert torch.equal(one.counts, other.counts)
    assert (one.top, one.largest) == (other.top, other.largest)
    assert int(one.counts.sum()) == 5 + 21 + 20 + 11


def test_zeros_alone_have_no_range():
    magnitudes = seen(torch.zeros(3, 4))
    assert magnitudes.top == magnitudes.largest == magnitudes.percentile(0.999) == 0.0
    assert int(magnitudes.counts[0]) == 12


def test_the_smallest_numbers_are_counted_too():
    magnitudes = seen(torch.tensor([1e-45, 0.0, 1e-40]))
    assert int(magnitudes.counts[0]) == 3
    magnitudes.add(torch.tensor([2.0]))
    assert magnitudes.percentile(1.0) == 2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"^activations hold NaN or Inf$"):
        seen(torch.tensor([1.0, bad]))
