"""Distances of sets, against SciPy, scikit-learn and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist, jensenshannon
from sklearn.metrics.pairwise import polynomial_kernel

from compress.measure.pictures.distribution import (
    bigrams,
    distances,
    frechet,
    jensen_shannon,
    kid,
    neighbourhoods,
)


def sets(pictures: int = 60, dimensions: int = 5, shift: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(dimensions, dimensions))
    return generator.normal(size=(pictures, dimensions)) @ mix, generator.normal(
        size=(pictures + 7, dimensions)
    ) + shift


@pytest.mark.parametrize("pictures", [60, 8])
def test_frechet_is_the_root_of_the_covariances_product(pictures):
    first, second = sets(pictures, 12)
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = sqrtm(c1 @ c2).real
    wanted = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet(first, second) == pytest.approx(wanted, rel=1e-4)
    assert frechet(first, first) == pytest.approx(0, abs=1e-9)


def test_frechet_of_one_feature_is_worked_by_hand():
    first, second = np.array([[0.0], [2.0]]), np.array([[1.0], [7.0]])
    assert frechet(first, second) == pytest.approx(3**2 + (np.sqrt(2) - np.sqrt(18)) ** 2)


def test_kid_is_scikit_learns_kernel_without_the_diagonal():
    first, second = sets()
    within, between, across = (
        polynomial_kernel(a, b, degree=3, gamma=1 / 5, coef0=1)
        for a, b in ((first, first), (second, second), (first, second))
    )
    n, m = len(first), len(second)
    wanted = (within.sum() - np.trace(within)) / (n * (n - 1)) + (between.sum() - np.trace(between)) / (m * (m - 1))
    found = kid(first, second)
    assert found.value == pytest.approx(wanted - 2 * across.mean())
    assert found.low < found.value < found.high


def test_kid_of_equal_distributions_is_zero_on_average_and_its_interval_holds_zero():
    values, held = [], 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        found = kid(generator.normal(size=(40, 4)), generator.normal(size=(40, 4)))
        values.append(found.value)
        held += found.low <= 0 <= found.high
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert held >= 180


def test_the_kid_interval_is_a_jackknife():
    first, second = sets(6, 2)
    found = kid(first, second)
    variance = 0.0
    for side, own in enumerate((first, second)):
        left = [
            kid(*((np.delete(first, i, 0), second) if side == 0 else (first, np.delete(second, i, 0)))).value
            for i in range(len(own))
        ]
        variance += (len(own) - 1) / len(own) * np.square(np.array(left) - np.mean(left)).sum()
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(variance))


def test_neighbourhoods_are_those_of_scipys_distances():
    first, second = sets(30, 3)
    precision, recall, density, coverage = neighbourhoods(first, second, k=3)
    own, other, across = cdist(first, first), cdist(second, second), cdist(first, second)
    r1, r2 = np.sort(own, 1)[:, 3], np.sort(other, 1)[:, 3]
    assert precision == np.mean([(across[:, j] <= r1).any() for j in range(len(second))])
    assert recall == np.mean([(across[i] <= r2).any() for i in range(len(first))])
    assert density == pytest.approx(np.mean([(across[:, j] <= r1).sum() / 3 for j in range(len(second))]))
    assert coverage == np.mean([(across[i] <= r1[i]).any() for i in range(len(first))])


def test_far_sets_share_nothing_and_equal_ones_everything():
    first, _ = sets()
    assert neighbourhoods(first, first + 1e3) == (0, 0, 0, 0)
    precision, recall, _, coverage = neighbourhoods(first, first)
    assert (precision, recall, coverage) == (1, 1, 1)


def test_token_divergence_is_scipys():
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 6, (9, 16)), generator.integers(2, 9, (7, 16))
    p, q = (np.bincount(each.ravel(), minlength=9) / each.size for each in (first, second))
    assert jensen_shannon(first, second) == pytest.approx(jensenshannon(p, q) ** 2)
    assert jensen_shannon(first, first) == 0
    assert jensen_shannon(np.zeros((2, 3), int), np.ones((2, 3), int)) == pytest.approx(np.log(2))


def test_pairs_stand_right_and_below():
    tokens = np.array([[1, 2, 3, 4]])
    base = 2**20
    square = bigrams(tokens, (2, 2))
    assert sorted(square[0]) == sorted([base + 2, 3 * base + 4, base * base + base + 3, base * base + 2 * base + 4])
    assert bigrams(tokens, None).tolist() == [[base + 2, 2 * base + 3, 3 * base + 4]]


def test_all_of_it_for_two_sets():
    first, second = sets()
    tokens = np.random.default_rng(1).integers(0, 5, (67, 16))
    found = distances(first, second, tokens[:60], tokens, (4, 4))
    assert found.frechet_ci95[0] <= found.frechet <= found.frechet_ci95[1]
    assert found.frechet == pytest.approx(frechet(first, second))
    assert found.unigram < 0.01
    with pytest.raises(ValueError, match=r"features \(1, 5\) and \(67, 5\): need \(N, D\) and \(M, D\)"):
        distances(first[:1], second, tokens[:1], tokens, None)
