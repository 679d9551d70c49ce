"""Divergences: against `torch.distributions`, values worked by hand, and between the limits that they must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from compress.training.divergence import Divergence

ALL = np.ones((1, 1), dtype=bool)
HALF, QUARTERS = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.75, 0.25]]]).log()


def by_torch(kind, teacher, student, mixing):
    """Divergence of each position, by PyTorch's distributions."""
    p, q = Categorical(logits=teacher), Categorical(logits=student)
    if kind == "forward":
        return kl_divergence(p, q)
    if kind == "reverse":
        return kl_divergence(q, p)
    middle = Categorical(probs=mixing * p.probs + (1 - mixing) * q.probs)
    return mixing * kl_divergence(p, middle) + (1 - mixing) * kl_divergence(q, middle)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jensen-shannon"])
@pytest.mark.parametrize(("temperature", "mixing"), [(1.0, 0.5), (0.5, 0.1), (4.0, 0.9)])
def test_a_divergence_is_pytorchs_of_the_softened_distributions_times_the_square(kind, temperature, mixing):
    teacher, student = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)).mul(3).unbind()
    by_token = by_torch(kind, teacher / temperature, student / temperature, mixing)
    assert by_token.shape == (3, 7)
    measure, scored = Divergence(kind, temperature, mixing), np.ones((3, 7), dtype=bool)
    torch.testing.assert_close(measure(teacher, student, scored), by_token.mean() * temperature**2)
    scored[0], scored[1, 3:] = False, False
    torch.testing.assert_close(
        measure(teacher, student, scored), by_token[torch.from_numpy(scored)].mean() * temperature**2
    )
    assert measure(teacher, teacher, scored).item() == pytest.approx(0.0, abs=1e-6)


def test_divergences_worked_by_hand():
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert Divergence("forward")(QUARTERS, HALF, ALL).item() == pytest.approx(forward)
    assert Divergence("reverse")(QUARTERS, HALF, ALL).item() == pytest.approx(reverse)
    # M = (0.625, 0.375)
    to_middle = 0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375)
    from_half = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    found = Divergence("jensen-shannon")(QUARTERS, HALF, ALL).item()
    assert found == pytest.approx((to_middle + from_half) / 2)
    # m = 0.2: M = 0.2 (0.75, 0.25) + 0.8 (0.5, 0.5) = (0.55, 0.45)
    to_middle = 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)
    from_half = 0.5 * math.log(0.5 / 0.55) + 0.5 * math.log(0.5 / 0.45)
    found = Divergence("jensen-shannon", mixing=0.2)(QUARTERS, HALF, ALL).item()
    assert found == pytest.approx(0.2 * to_middle + 0.8 * from_half)


def test_jensen_shannon_is_at_most_log_2_where_kl_has_no_bound():
    far, other = torch.tensor([[[80.0, 0.0]]]), torch.tensor([[[0.0, 80.0]]])
    assert Divergence("jensen-shannon")(far, other, ALL).item() == pytest.approx(math.log(2))
    assert Divergence("forward")(far, other, ALL).item() == pytest.approx(80.0)


def test_the_gradient_of_reverse_kl_flees_what_the_teacher_calls_unlikely():
    teacher = torch.tensor([[[0.0, 0.0, -30.0]]])
    gradients = {}
    for kind in ("forward", "reverse"):
        student = torch.zeros(1, 1, 3, requires_grad=True)
        Divergence(kind)(teacher, student, ALL).backward()
        gradients[kind] = student.grad[0, 0, 2].item()
    assert gradients["forward"] == pytest.approx(1 / 3, rel=1e-4)  # Q - P
    # Q_i (log Q_i / P_i - KL(Q || P)) with KL = 2/3 log(2/3) + 1/3 (log(1/3) + log 2 + 30)
    kl = 2 / 3 * math.log(2 / 3) + 1 / 3 * (math.log(2 / 3) + 30)
    assert gradients["reverse"] == pytest.approx(1 / 3 * (math.log(2 / 3) + 30 - kl), rel=1e-4)
