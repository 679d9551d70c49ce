"""GPTQ against the paper's first algorithm written out (one weight after another, the inverse Hessian shrinking)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from calibration.gptq import COLUMNS, DAMPING, Gram, spread_rounding

SCALE = 0.25


def inputs(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inputs that depend on each other, of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    return (x + 0.8 * x.roll(1, dims=1)) * torch.linspace(0.3, 2, width)


def gram_of(x: torch.Tensor) -> torch.Tensor:
    """The Gram matrix, added up in two parts."""
    gram = Gram(x.shape[1])
    gram.add(x[: len(x) // 2])
    gram.add(x[len(x) // 2 :])
    assert gram.rows == len(x)
    return gram.matrix


def made_of(weight: torch.Tensor, gram: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The rounded weights, each rounded once, and whether inputs depend on each other."""
    made = torch.full_like(weight, torch.nan)

    def rounded(column: int, values: torch.Tensor) -> torch.Tensor:
        assert made[:, column].isnan().all()
        made[:, column] = (values / SCALE).round() * SCALE
        return made[:, column]

    return made, spread_rounding(weight, gram, rounded)


def by_the_paper(weight: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """Optimal brain quantization in one order for all rows (equations 2 and 3 of arXiv 2210.17323)."""
    order = np.argsort(-np.diag(gram), kind="stable")
    hessian = gram + DAMPING * np.diag(gram).mean() * np.eye(len(gram))
    inverse, left, made = np.linalg.inv(hessian), weight.copy(), np.empty_like(weight)
    for column in order:
        made[:, column] = np.rint(left[:, column] / SCALE) * SCALE
        error = (left[:, column] - made[:, column]) / inverse[column, column]
        left -= np.outer(error, inverse[column])
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # never read again, but must not be 0
        inverse[column, :column] = inverse[column, column + 1 :] = inverse[:column, column] = 0
        inverse[column + 1 :, column] = 0
    return made


@pytest.mark.parametrize("width", [12, COLUMNS + 9])
def test_weights_are_rounded_as_the_paper_says(width) -> None:
    weight = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    gram = gram_of(inputs(400, width))
    made, dependent = made_of(weight, gram)
    np.testing.assert_allclose(made.numpy(), by_the_paper(weight.double().numpy(), gram.numpy()), atol=1e-6)
    assert not dependent


def test_outputs_change_less_than_with_the_nearest_codes() -> None:
    weight, x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)), inputs(500, 64)
    made, _ = made_of(weight, gram_of(x))
    nearest = (weight / SCALE).round() * SCALE
    errors = [float(((each - weight) @ x.mT).square().mean()) for each in (made, nearest)]
    assert errors[0] < 0.7 * errors[1]
    fresh = inputs(500, 64, seed=9)
    errors = [float(((each - weight) @ fresh.mT).square().mean()) for each in (made, nearest)]
    assert errors[0] < 0.7 * errors[1], "and on inputs that it never saw"


def test_inputs_that_are_always_zero_leave_their_weights_at_the_nearest_code() -> None:
    weight, x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), inputs(200, 16)
    x[:, [3, 7]] = 0
    made, _ = made_of(weight, gram_of(x))
    assert torch.equal(made[:, [3, 7]], (weight[:, [3, 7]] / SCALE).round() * SCALE)
    made, _ = made_of(weight, torch.zeros(16, 16, dtype=torch.float64))
    assert torch.equal(made, (weight / SCALE).round() * SCALE)


@pytest.mark.parametrize("rows", [200, 9])
def test_dependent_inputs_are_solved_all_the_same_and_said(rows) -> None:
    x = inputs(rows, 16)
    if rows > 16:
        x[:, 5] = x[:, 4] - x[:, 2]
    made, dependent = made_of(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), gram_of(x))
    assert dependent
    assert bool(made.isfinite().all())


def test_a_matrix_of_no_numbers_is_refused() -> None:
    x = inputs(40, 8)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="the inputs hold NaN or Inf"):
        made_of(torch.ones(2, 8), gram_of(x))
