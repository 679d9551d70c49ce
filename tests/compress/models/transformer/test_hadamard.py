"""Hadamard matrices are what they are called, and rotations of every size are orthogonal."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from compress.models.transformer.hadamard import hadamard, mean_keeping, rotation, sylvester

# 12, 20, 28 and 44 are Paley's first kind, 36 his second; the rest are doublings, among them published models' widths.
SIZES = [1, 2, 4, 12, 20, 24, 28, 36, 40, 44, 192, 704, 768, 1280, 1408]
NO_SIZES = [3, 6, 10, 85, 100]  # no construction here has 100, there is none of the others


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_doublings_are_scipys_matrices(size) -> None:
    np.testing.assert_array_equal(sylvester(size).numpy(), scipy.linalg.hadamard(size))


@pytest.mark.parametrize("size", SIZES)
def test_entries_are_one_or_minus_one_and_rows_are_orthogonal(size) -> None:
    matrix = hadamard(size)
    assert matrix is not None
    assert matrix.abs().eq(1).all()
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", NO_SIZES)
def test_other_sizes_have_none(size) -> None:
    assert hadamard(size) is None


@pytest.mark.parametrize("make", [rotation, mean_keeping])
@pytest.mark.parametrize("size", [1, 2, 10, 33, 64, 192])
def test_rotations_of_every_size_are_orthogonal_and_follow_from_the_seed(make, size) -> None:
    matrix = make(size, 1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.equal(matrix, make(size, 1))
    assert size < 10 or not torch.equal(matrix, make(size, 2))


def test_a_rotation_spreads_one_large_channel_evenly_over_all() -> None:
    channel = torch.zeros(192, dtype=torch.float64)
    channel[7] = 192**0.5
    torch.testing.assert_close((rotation(192, 1) @ channel).abs(), torch.ones(192, dtype=torch.float64))
    assert (mean_keeping(192, 1) @ channel).abs().max() < 4


@pytest.mark.parametrize("size", [2, 10, 64, 192])
def test_equal_numbers_stay_so_that_layer_norms_commute(size) -> None:
    matrix, x = mean_keeping(size, 3), torch.randn(5, size, dtype=torch.float64)
    ones = torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(matrix @ ones, ones)
    normed = torch.nn.functional.layer_norm(x, (size,))
    torch.testing.assert_close(torch.nn.functional.layer_norm(x @ matrix.T, (size,)), normed @ matrix.T)
