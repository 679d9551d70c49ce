"""Step sizes: fixed or trained, and estimators that let gradients through rounding."""

from __future__ import annotations

import torch

from compress.models.transformer.step_size import StepSize, straight_through, within


def test_nothing_is_rounded_twice():
    rounded, exact = torch.tensor([0.1, 1e8]), torch.tensor([1e8, 0.1], requires_grad=True)
    assert torch.equal(straight_through(rounded, exact), rounded)  # exact + (rounded - exact) would lose 0.1


def test_a_gradient_stops_outside_of_the_range():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = within(x, torch.tensor([True, False]))
    assert torch.equal(y, x)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


def test_a_trained_step_is_its_beginning_times_an_exponential_and_stays_positive():
    step = StepSize(torch.tensor([[0.5], [2.0]]), shared_by=25, largest=4.0, learned=True)
    assert torch.equal(step(), torch.tensor([[0.5], [2.0]]))
    step().sum().backward()
    assert torch.allclose(step.growth.grad, torch.tensor([[0.5], [2.0]]) * 0.1)  # 1 / sqrt(25 * 4)
    with torch.no_grad():
        step.growth.fill_(-3.0)
    assert torch.allclose(step(), torch.tensor([[0.5], [2.0]]) * torch.tensor(-3.0).exp())


def test_a_fixed_step_has_no_parameter():
    step = StepSize(torch.tensor(0.5), shared_by=25, largest=4.0, learned=False)
    assert not list(step.parameters())
    assert step() == 0.5
