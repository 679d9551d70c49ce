"""One option for each group under a limit: worked by hand, and against all choices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compress.passes.shared.assignment import chosen

BYTES = [[10, 20, 40], [10, 20, 40], [5, 10, 20]]
KL = [[9e-4, 2e-4, 0.0], [4e-4, 1e-4, 0.0], [6e-4, 1e-4, 0.0]]


@pytest.mark.parametrize(
    ("limit", "choice"),
    [
        (1e-2, [0, 0, 0]),  # everything fits
        (7.01e-4, [1, 0, 1]),  # 2 + 4 + 1 in 40 bytes: the first layer pays 10 bytes for what the second one saves
        (6.01e-4, [1, 1, 1]),  # 2 + 1 + 1 in 50
        (4.01e-4, [1, 1, 1]),
        (3.01e-4, [1, 1, 2]),  # 2 + 1 + 0 in 60 bytes; [1, 2, 1] and [2, 1, 1] take 70
        (0.0, [2, 2, 2]),
    ],
)
def test_three_layers_get_what_was_worked_out_by_hand(limit, choice):
    found = chosen(BYTES, KL, limit)
    assert cost_of(found, BYTES) == cost_of(choice, BYTES)
    assert cost_of(found, KL) <= limit


def cost_of(choice, costs):
    return sum(costs[group][index] for group, index in enumerate(choice))


def test_where_nothing_keeps_the_limit_nothing_is_chosen():
    assert chosen(KL, BYTES, 24) is None
    assert chosen(KL, BYTES, 25) == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_is_cheaper(seed):
    generator = np.random.default_rng(seed)
    costs = generator.integers(1, 1000, (6, 4)).tolist()
    weights = (10 ** generator.uniform(-7, -3, (6, 4))).tolist()
    limit = float(np.median([sum(w[i] for w, i in zip(weights, c, strict=True))
                             for c in itertools.product(range(4), repeat=6)]))  # fmt: skip
    best = min(
        cost_of(choice, costs) for choice in itertools.product(range(4), repeat=6) if cost_of(choice, weights) <= limit
    )
    found = chosen(costs, weights, limit)
    assert cost_of(found, weights) <= limit
    assert cost_of(found, costs) == best


def test_groups_may_have_different_numbers_of_options():
    assert chosen([[1], [3, 1], [5, 2, 1]], [[1], [0, 1], [0, 1, 2]], 3) in ([0, 1, 1], [0, 0, 2])
