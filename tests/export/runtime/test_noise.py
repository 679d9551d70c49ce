"""The noise of a seed against SplitMix64 as published, against its distributions, and that no two places share it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from export.runtime.noise import Noise, NoiseOfEach, mixed, steps_of

MASK = 2**64 - 1


def splitmix(state: int) -> tuple[int, int]:
    """The next state and number, in whole numbers of any size."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = state
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return state, z ^ (z >> 31)


def test_the_hash_is_that_of_splitmix64() -> None:
    state, wanted = 1234567, []
    for _ in range(5):
        state, number = splitmix(state)
        wanted.append(number)
    assert wanted[0] == 6457827717110365317  # the first of the published test vector of seed 1234567
    assert mixed(np.uint64(1234567) + steps_of(0, 5)).tolist() == wanted


def test_a_number_is_the_top_of_the_hash_of_its_place() -> None:
    key = splitmix(5)[1]
    for increments in (3, 2 * 7 + 1 + 1):  # picture 2, step 7 for places
        key = splitmix(key + (increments - 1) * 0x9E3779B97F4A7C15)[1]
    top = splitmix(key + 4 * 0x9E3779B97F4A7C15)[1] >> 41  # the number with index 4
    assert Noise(5, 3).uniform(7, (6,), "place")[2, 4] == np.float32((top + 0.5) * 2.0**-23)


def test_numbers_are_even_and_gumbels_are_gumbels() -> None:
    noise = Noise(3, 4)
    uniform = noise.uniform(0, (50_000,)).ravel()
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(noise.gumbel(1, (50_000,)).ravel(), "gumbel_r").pvalue > 0.01


def test_large_requests_are_those_of_small_ones_side_by_side() -> None:
    large = Noise(0, 1).uniform(0, (200_000,))
    assert (large[:, :100] == Noise(0, 1).uniform(0, (100,))).all()
    assert len(np.unique(large)) > 195_000  # of 2^23 values some are met twice


@pytest.mark.parametrize("other", [(1, 0, "token", 0), (0, 1, "token", 0), (0, 0, "place", 0), (0, 0, "token", 1)])
def test_another_seed_step_use_or_picture_has_another_noise(other) -> None:
    seed, step, use, first = other
    a, b = Noise(0, 1).gumbel(0, (10_000,)), Noise(seed, 1, first).gumbel(step, (10_000,), use)
    assert abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.03
    assert (Noise(0, 2).gumbel(0, (9,))[1] == Noise(0, 1, 1).gumbel(0, (9,))[0]).all()


@pytest.mark.parametrize(
    ("seed", "shown"),
    [
        (-1, "-1"),
        (2**64, "18446744073709551616"),
        (1.0, "1.0"),
        (True, "True"),
        ("1", "'1'"),
        pytest.param(10**5000, "a number of thousands of digits", id="long"),
    ],
)
def test_what_is_no_seed_is_refused(seed, shown) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 0") as error:
        Noise(seed, 1)
    assert str(error.value) == f"seed {shown}: must be a whole number from 0 to 18446744073709551615"


def test_the_last_seed_is_another_one_than_the_first() -> None:
    first, last = Noise(0, 1).gumbel(0, (9,)), Noise(2**64 - 1, 1).gumbel(0, (9,))
    assert (first != last).all()
    assert (Noise(np.uint64(2**64 - 1), 1).gumbel(0, (9,)) == last).all()


def test_pictures_of_several_seeds_have_the_noise_that_each_has_alone() -> None:
    parts = (Noise(3, 2), Noise(4, 1, first=1))
    found = NoiseOfEach(parts)
    assert found.count == 3
    assert (found.gumbel(5, (2, 7)) == np.concatenate([part.gumbel(5, (2, 7)) for part in parts])).all()
    assert (found.gumbel(5, (2, 7))[2] == Noise(4, 2).gumbel(5, (2, 7))[1]).all()
