import numpy as np
import pytest
from scipy import stats

from compress.measure.statistics import (
    Estimate,
    bootstrap_mean,
    median,
    pictures_needed,
    resampled_means,
    share,
    share_difference,
    tail_of,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_the_bootstrap_interval_of_a_mean_is_scipys():
    values = generator().exponential(size=80)
    found = bootstrap_mean(values, resamples=20_000)
    wanted = stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=20_000,
        rng=generator(1),
        confidence_level=1 - 2 * tail_of(80),
    )
    width = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert found.value == values.mean()
    assert found.ci95 == pytest.approx(tuple(wanted.confidence_interval), abs=0.03 * width)


@pytest.mark.parametrize("count", [2, 5, 10, 30, 297])
def test_few_pictures_take_more_of_the_draws(count):
    wanted = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf(0.025, count - 1))
    assert tail_of(count) == pytest.approx(wanted)
    assert tail_of(count) < 0.025


# Gamma of shape 2 is as skewed (1.4) as the divergences of pictures are.
@pytest.mark.parametrize(("count", "least"), [(10, 0.90), (30, 0.93), (100, 0.93)])
def test_the_bootstrap_interval_of_skewed_values_covers_the_truth_with_few_pictures_too(count, least):
    covered = 0
    for seed in range(1500):
        found = bootstrap_mean(generator(seed).gamma(2.0, size=count), seed, resamples=500)
        covered += found.low <= 2.0 <= found.high
    assert covered / 1500 >= least


def test_the_bootstrap_draws_the_same_for_the_same_seed_and_others_for_another():
    values = generator().normal(size=20)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_columns_are_resampled_together():
    values = generator().normal(size=(15, 1))
    draws = resampled_means(np.concatenate([values, 2 * values + 1], axis=1), seed=0, resamples=50)
    np.testing.assert_allclose(draws[:, 1], 2 * draws[:, 0] + 1)


def test_resamples_in_chunks_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr("compress.measure.statistics.CHUNK_VALUES", 70)
    draws = resampled_means(generator().normal(size=(10, 1)), seed=0, resamples=25)
    assert draws.shape == (25, 1)
    assert len(np.unique(draws)) == 25


def test_a_bootstrap_of_one_picture_is_refused():
    with pytest.raises(ValueError, match="an interval over pictures needs at least 2 of them; there are 1"):
        bootstrap_mean(np.ones(1))


# Ranks of the order statistics in Conover's table of exact 95 % intervals of a median.
@pytest.mark.parametrize(("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (15, 4, 12), (20, 6, 15), (30, 10, 21)])
def test_the_interval_of_a_median_lies_between_the_tabled_order_statistics(count, low, high):
    found = median(generator().permutation(np.arange(1.0, count + 1)))
    assert found == Estimate((count + 1) / 2, low, high)


@pytest.mark.parametrize("count", [7, 12, 25, 101, 400])
def test_the_interval_of_a_median_is_scipys(count):
    values = generator(count).normal(size=count)
    wanted = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert median(values).ci95 == (wanted.low, wanted.high)


def test_five_values_have_no_interval_of_a_median():
    with pytest.raises(ValueError, match="a 95 % interval of a median needs at least 6 values; there are 5"):
        median(np.arange(5.0))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (29, 30), (30, 30), (950, 1000)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(successes, trials):
    wanted = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = share(successes, trials)
    assert found.value == successes / trials
    assert found.ci95 == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials are no share"):
        share(successes, trials)


def outcomes(both, only_first, only_second, neither):
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def test_the_difference_of_paired_shares_has_newcombes_published_interval():
    found = share_difference(*outcomes(36, 12, 2, 0))  # Newcombe 1998, table II, first column, method 10
    assert (found.value, *found.ci95) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


def test_the_difference_of_equal_perfect_shares_still_has_a_width():
    found = share_difference(*outcomes(300, 0, 0, 0))
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert 0.005 < found.high < 0.02


def test_the_interval_of_a_difference_covers_the_truth_95_times_in_100():
    covered, truth = 0, 0.05
    for seed in range(400):
        counts = generator(seed).multinomial(200, [0.85, 0.09, 0.04, 0.02])  # the truth is 0.09 - 0.04
        found = share_difference(*outcomes(*counts))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.99


def test_outcomes_of_different_pictures_are_refused():
    with pytest.raises(ValueError, match="3 and 2 outcomes are not of the same pictures"):
        share_difference(np.ones(3, dtype=bool), np.ones(2, dtype=bool))


def test_half_the_width_needs_four_times_the_pictures():
    assert pictures_needed(Estimate(0.5, 0.4, 0.6), 100, 0.05) in (400, 401)
    assert pictures_needed(Estimate(0.5, 0.5, 0.5), 100, 0.05) == 2
