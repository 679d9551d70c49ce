"""Least squares from sums over rows, against NumPy's on the whole stacked system."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.passes.shared import least_squares
from compress.passes.shared.least_squares import Gated, Moments, Rows, SolveError, solve

INPUTS, OUTPUTS, COUNT = 6, 3, 50


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(inputs, missing, gates=None, ridge=0.0):
    """What `solve` makes of rows that come in two batches."""

    def batches(each):
        return [None, None] if each is None else each.split(30)

    rows = (Rows(*each) for each in zip(batches(inputs), batches(missing), batches(gates), strict=True))
    shape = missing.shape[1], inputs.shape[1]
    return solve(
        rows, lambda: (Gated(*each) for each in zip(batches(inputs), batches(gates), strict=True)), shape, ridge
    )


def stacked(inputs, missing, gates, ridge):
    """NumPy's solution of the rows and, below them, one for the ridge of each input; one output after the other."""
    found = []
    for output in range(missing.shape[1]):
        x = inputs * gates[:, output, None]
        below = (ridge * x.square().sum(dim=0).mean()).sqrt() * torch.eye(x.shape[1], dtype=torch.float64)
        right = torch.cat([missing[:, output], torch.zeros(len(below), dtype=torch.float64)])
        found.append(np.linalg.lstsq(torch.cat([x, below]).numpy(), right.numpy(), rcond=None)[0])
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_without_gates_it_is_the_solution_of_the_stacked_system(ridge):
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    found = solved(inputs, missing, ridge=ridge)
    torch.testing.assert_close(found.change, stacked(inputs, missing, torch.ones(COUNT, OUTPUTS), ridge))
    assert (found.rows, found.damped, found.iterations) == (COUNT, 0.0, 0)


def test_gates_are_weights_of_every_row_and_output():
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    gates = drawn(COUNT, OUTPUTS, seed=2)
    found = solved(inputs, missing, gates)
    torch.testing.assert_close(found.change, stacked(inputs, missing, gates, 0.0), rtol=1e-4, atol=1e-4)
    assert 0 < found.iterations < 20


def test_gates_that_are_the_same_for_all_rows_take_one_iteration():
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    gates = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64).expand(COUNT, -1)
    found = solved(inputs, missing, gates, ridge=0.1)
    torch.testing.assert_close(found.change[:2], stacked(inputs, missing, gates, 0.1)[:2])
    assert (found.change[2] == 0).all(), "a closed gate lets nothing through, so its weights stay"
    assert found.iterations == 1


@pytest.mark.parametrize("most_bytes", [2**28, 3 * 6 * 6 * 8])
def test_gates_that_classes_share_give_the_same_from_grams_as_from_rows(monkeypatch, most_bytes):
    monkeypatch.setattr(least_squares, "MOST_BYTES", most_bytes)  # of five classes, or of three at most
    monkeypatch.setattr(least_squares, "MOST_PASSES", 50)
    monkeypatch.setattr(least_squares, "TOLERANCE", 1e-9)
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    gates = drawn(5, OUTPUTS, seed=2).repeat_interleave(10, dim=0)
    sums = Moments.of(iter([Rows(inputs, missing, gates)]), OUTPUTS, INPUTS)
    assert (sums.groups is None) == (most_bytes < 2**28)
    torch.testing.assert_close(solved(inputs, missing, gates).change, stacked(inputs, missing, gates, 0.0))


def test_a_singular_system_is_damped_and_still_answered():
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    inputs[:, 5] = inputs[:, 4]
    found = solved(inputs, missing)
    assert found.damped == 1e-9
    best = inputs @ torch.from_numpy(np.linalg.lstsq(inputs.numpy(), missing.numpy(), rcond=None)[0])
    torch.testing.assert_close(inputs @ found.change.T, best, rtol=1e-5, atol=1e-5)


def test_an_input_that_is_always_0_keeps_its_weights():
    inputs = drawn(COUNT, INPUTS)
    inputs[:, 2] = 0
    assert (solved(inputs, drawn(COUNT, OUTPUTS), ridge=0.01).change[:, 2] == 0).all()


@pytest.mark.parametrize("gated", [False, True])
def test_an_input_that_is_nearly_always_0_gets_no_huge_weight(gated):
    inputs, missing = drawn(COUNT, INPUTS), drawn(COUNT, OUTPUTS, seed=1)
    inputs[:, 2] *= 1e-4
    gates = drawn(5, OUTPUTS, seed=2).repeat_interleave(10, dim=0) if gated else None
    assert solved(inputs, missing, gates).change[:, 2].abs().max() > 100
    assert solved(inputs, missing, gates, ridge=0.01).change[:, 2].abs().max() < 0.1


def test_nothing_missing_changes_nothing():
    assert (solved(drawn(COUNT, INPUTS), torch.zeros(COUNT, OUTPUTS)).change == 0).all()
    gated = solved(drawn(COUNT, INPUTS), torch.zeros(COUNT, OUTPUTS), drawn(COUNT, OUTPUTS))
    assert (gated.change == 0).all()
    assert gated.iterations == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    inputs = drawn(COUNT, INPUTS)
    inputs[3, 1] = value
    with pytest.raises(SolveError, match="what goes into it, or what is missing behind it, holds NaN or Inf"):
        solved(inputs, drawn(COUNT, OUTPUTS))
