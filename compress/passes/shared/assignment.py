"""One option for each of many groups: the cheapest choice that keeps a limit, by integer programming.

A multiple-choice knapsack problem (Sinha and Zoltners 1979): binary variables, of which each group's sum to one, are
solved by SciPy's `milp`, branch and cut in HiGHS. Formats of layers under a budget are chosen like that in HAWQ-V3
(arXiv 2011.10680).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

GAP = 1e-4  # what is found costs at most this share more than the best
MOST_SECONDS = 30.0
INSIDE = 1 - 1e-5  # of the limit, where the solver used its tolerance to exceed it


def chosen(costs: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float) -> list[int] | None:
    """The option of each group with the least sum of `costs`, whose `weights` sum to at most `limit`.

    `costs` and `weights` have a sequence for each group, with a number that is not negative for each of its options.
    None: no choice keeps the limit.
    """
    lightest = [int(np.argmin(group)) for group in weights]
    if not within(lightest, weights, limit):
        return None
    sizes = [len(group) for group in costs]
    starts = [0, *itertools.accumulate(sizes)]
    each = csr_array((np.ones(starts[-1]), np.arange(starts[-1]), starts))  # row g: the options of group g
    cost, weight = (
        np.concatenate([np.asarray(group, dtype=np.float64) for group in part]) for part in (costs, weights)
    )
    # Sums near 1 are what the solver's tolerances are made for; weights beyond the limit cannot be taken anyway.
    scaled = np.minimum(weight / limit, 2.0) if limit > 0 else np.minimum(weight, 2.0)
    for bound in (1.0, INSIDE) if limit > 0 else (0.0,):
        found = milp(
            cost / max(float(cost.max()), np.finfo(np.float64).tiny),
            integrality=np.ones(starts[-1]),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(each, 1, 1), LinearConstraint(scaled[None], -np.inf, bound)],
            options={"mip_rel_gap": GAP, "time_limit": MOST_SECONDS},
        )
        if found.x is not None:
            made = [int(np.argmax(found.x[start:end])) for start, end in itertools.pairwise(starts)]
            if within(made, weights, limit):
                return made
    return lightest


def within(choice: Sequence[int], weights: Sequence[Sequence[float]], limit: float) -> bool:
    """Whether the weights of a choice keep the limit."""
    return sum(group[index] for group, index in zip(weights, choice, strict=True)) <= limit
