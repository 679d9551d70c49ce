"""The loss of a step: the same in parts as whole, and nearly the same in bfloat16."""

from __future__ import annotations

import pytest
import torch

from compress.training.divergence import Divergence
from compress.training.gradients import Gradients
from compress.training.lesson import Lesson, slices
from compress.training.teaching import Draws, Teacher
from compress.training.world import ALONE

KINDS = {
    "causal": {},
    "masked": {"order": "masked", "positions": "learned"},
}


@pytest.fixture
def lesson(tiny_model, tiny_tokens):
    """A factory of lessons on a batch of 7 by which one tiny model teaches another."""

    def make(kind="causal", **settings):
        reference, student = (tiny_model(seed=seed, **KINDS[kind]).transformer for seed in (0, 1))
        draws = Draws(tiny_tokens.part("train"), student.config, batch=7, null_share=0.25, seed=3)
        teacher = Teacher(reference, draws, [1, 2])
        return Lesson(student, teacher, draws, Divergence("jensen-shannon"), own_layers=[1, 2], hidden=0.5, **settings)

    return make


def learned(lesson):
    """The loss of step 4, and all gradients of the student in a row."""
    loss = Gradients(lesson.student, ALONE).take(lesson(4))
    return loss, torch.cat([p.grad.flatten() for p in lesson.student.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [2, 7])
def test_loss_and_gradient_of_a_batch_in_parts_are_those_of_the_whole(lesson, kind, parts):
    whole, gradient = learned(lesson(kind))
    loss, summed = learned(lesson(kind, parts=parts))
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(summed, gradient, rtol=1e-4, atol=1e-6)


def test_parts_are_computed_one_after_the_other(lesson):
    made = lesson(parts=7)
    parts, order = made(0), []
    for parameter in made.student.parameters():
        parameter.register_hook(lambda gradient: order.append("gradient"))
    computed = [lambda part=part: (order.append("part"), part())[1] for part in parts]
    Gradients(made.student, ALONE).take(computed)
    assert len(parts) == order.count("part") == 7
    assert order[0] == "part"
    assert all(order[at + 1] == "gradient" for at, said in enumerate(order) if said == "part")
    assert [(part.start, part.stop) for part in slices(7, 3)] == [(0, 2), (2, 4), (4, 7)]


def test_bfloat16_changes_products_and_leaves_losses_and_weights_in_float32(lesson):
    exact, gradient = learned(lesson())
    narrow = lesson(precision="bfloat16")
    loss, rounded = learned(narrow)
    assert loss.dtype == rounded.dtype == torch.float32
    assert {parameter.dtype for parameter in narrow.student.parameters()} == {torch.float32}
    assert loss != exact
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)
    assert torch.nn.functional.cosine_similarity(rounded, gradient, dim=0) > 0.99
