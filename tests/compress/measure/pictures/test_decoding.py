"""PSNR and SSIM of decoded pictures against hand-worked numbers and SSIM written out anew with SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from compress.measure.pictures.decoding import HIGHEST_PSNR, compared, psnr, same, ssim
from compress.measure.speed.timing import Timings

TIMINGS = Timings({"own": (0.1,) * 6, "reference": (0.3,) * 6})


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures (N, side, side, 3) in 0..1."""
    noise = np.random.default_rng(seed).random((count, side, side, 3))
    for axis in (1, 2):
        noise = correlate1d(noise, np.full(5, 0.2), axis=axis, mode="wrap")
    return noise.astype(np.float32)


def written_out(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM as in the paper: Gaussian windows of 11 x 11, whole ones only, the mean over places and channels."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def windowed(values: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            values = correlate1d(values, kernel, axis=axis)
        return values[5:-5, 5:-5]

    mean, other = windowed(first), windowed(second)
    variance, other_variance = windowed(first**2) - mean**2, windowed(second**2) - other**2
    covariance = windowed(first * second) - mean * other
    small, little = 0.01**2, 0.03**2
    likeness = (2 * mean * other + small) * (2 * covariance + little)
    return float((likeness / ((mean**2 + other**2 + small) * (variance + other_variance + little))).mean())


def test_psnr_is_worked_by_hand() -> None:
    reference = np.zeros((2, 2, 1))
    assert psnr(np.full((2, 2, 1), 0.1), reference) == pytest.approx(20.0)
    one_off = np.array([[[0.2], [0.0]], [[0.0], [0.0]]])  # a mean square of 0.01
    assert psnr(one_off, reference) == pytest.approx(20.0)
    assert psnr(reference, reference) == psnr(reference + 1e-9, reference) == HIGHEST_PSNR


def test_ssim_is_the_papers() -> None:
    first = pictures(1, 24)[0].astype(np.float64)
    second = (first + 0.05 * np.random.default_rng(1).normal(size=first.shape)).clip(0, 1)
    assert ssim(second, first) == pytest.approx(written_out(second, first), abs=1e-6)
    assert ssim(first, first) == pytest.approx(1.0)


def test_pictures_smaller_than_the_window_have_a_smaller_one() -> None:
    first = pictures(1, 8)[0].astype(np.float64)
    assert 0 < ssim((first + 0.1).clip(0, 1), first) < ssim(first, first) == pytest.approx(1.0)


def test_a_mean_is_over_pictures_and_its_interval_holds_it() -> None:
    true = pictures(10, 16)
    shifts = np.repeat([0.01, 0.02], 5).astype(np.float32)[:, None, None, None]
    sizes = []

    def own(tokens: np.ndarray) -> np.ndarray:
        sizes.append(len(tokens))
        return 0.4 + 0.2 * true[tokens[:, 0]] + shifts[tokens[:, 0]]

    found = compared(own, lambda tokens: 0.4 + 0.2 * true[tokens[:, 0]], np.arange(10)[:, None], (10, 40), TIMINGS)
    assert sizes == [1] * 10
    assert found.psnr == pytest.approx((40 - 20 * math.log10(2) / 2), abs=1e-3)
    assert found.psnr_worst == pytest.approx(40 - 20 * math.log10(2), abs=1e-3)
    assert found.psnr_worst < found.psnr_ci95[0] < found.psnr < found.psnr_ci95[1] < 40
    assert found.ssim_ci95[0] < found.ssim < found.ssim_ci95[1] <= 1
    assert (found.ms_per_picture, found.reference_ms_per_picture) == (pytest.approx(100), pytest.approx(300))
    assert found.speedup == pytest.approx(3)
    assert (found.pictures, found.equal, found.size_bytes, found.reference_size_bytes) == (10, False, 10, 40)


def test_what_lies_outside_of_a_picture_is_not_seen() -> None:
    tokens = np.zeros((2, 1), dtype=np.int64)
    white, whiter = (np.full((2, 16, 16, 3), value, dtype=np.float32) for value in (1.0, 1.7))
    found = compared(lambda _: whiter, lambda _: white, tokens, (1, 1), TIMINGS)
    assert (found.psnr, found.ssim) == (HIGHEST_PSNR, pytest.approx(1.0))


def test_a_picture_with_nan_is_refused() -> None:
    tokens, bad = np.zeros((2, 1), dtype=np.int64), np.full((2, 16, 16, 3), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="a decoded picture holds NaN"):
        compared(lambda _: bad, lambda _: bad, tokens, (1, 1), TIMINGS)


def test_the_references_own_decoder_is_equal() -> None:
    found = same(5, 100)
    assert (found.equal, found.psnr, found.ssim, found.ms_per_picture) == (True, HIGHEST_PSNR, 1.0, None)
