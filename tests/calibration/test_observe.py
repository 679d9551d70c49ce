"""Histograms of magnitudes against sorted values, whatever the order of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from calibration.observe import BINS, Magnitudes, observe_inputs


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


class Two(nn.Module):
    """Two layers, one of them used."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
        self.first.weight.data = torch.tensor([[1.0, 1.0], [2.0, 0.0]])

    def forward(self, x):
        return self.first(x)


def test_the_inputs_of_the_named_layers_are_observed():
    model = nn.Sequential(Two(), nn.Linear(2, 1))
    found = observe_inputs(model, ["0.first", "1"], lambda: model(torch.tensor([[3.0, -4.0]])))
    assert found["0.first"].largest == 4.0
    assert found["1"].largest == 6.0  # 2 * 3
    assert not model[1]._forward_pre_hooks


def test_a_layer_that_saw_nothing_is_named():
    model = Two()
    with pytest.raises(ValueError, match=r"^second: saw no activations$"):
        observe_inputs(model, ["first", "second"], lambda: model(torch.ones(1, 2)))


def test_a_layer_that_saw_nan_is_named_and_the_hooks_are_gone():
    model = Two()
    with pytest.raises(ValueError, match=r"^first: activations hold NaN or Inf$"):
        observe_inputs(model, ["first"], lambda: model(torch.tensor([[1.0, float("nan")]])))
    assert not model.first._forward_pre_hooks
