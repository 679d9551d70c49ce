"""What the reference teaches: hidden states, and draws that depend on seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.transformer.examples import examples
from compress.models.transformer.model import TokenTransformer
from compress.passes.rotate import Rotate
from compress.training import teaching
from compress.training.teaching import Answer, Draws, Teacher, answer, hidden_loss, matched_layers


def quiet(step, steps, values):
    """A report that nobody reads."""


@pytest.fixture
def draws(tiny_tokens, tiny_model):
    return Draws(tiny_tokens.part("train"), tiny_model().transformer.config, batch=8, null_share=0.25, seed=3)


def ask(teacher, draws, step):
    """What the teacher says of a step's examples."""
    chosen = draws.step(step)
    return teacher(chosen, draws.examples_at(chosen, step))


def test_the_hidden_loss_is_relative_to_the_teachers_size_and_a_mean_over_layers():
    teacher = Answer(torch.empty(0), (torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 1.0]]])))
    student = Answer(torch.empty(0), (torch.tensor([[[3.0, 3.0]]]), torch.tensor([[[1.0, 2.0]]])))
    sizes = [torch.tensor(12.5), torch.tensor(1.0)]  # means of 9 and 16, of 1 and 1
    assert hidden_loss(teacher, student, sizes).item() == pytest.approx((1 / 25 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (12, 12, [(3, 3), (6, 6), (9, 9), (12, 12)]),
        (8, 12, [(2, 3), (4, 6), (6, 9), (8, 12)]),
        (2, 2, [(1, 1), (2, 2)]),
        (1, 6, [(1, 6)]),
        (6, 6, [(2, 2), (3, 3), (5, 5), (6, 6)]),
    ],
)
def test_layers_are_compared_at_equal_depth_and_the_last_always(student, teacher, pairs):
    assert matched_layers(student, teacher) == pairs


def test_an_answer_holds_the_streams_after_the_layers_asked_for(any_model, any_tokens):
    model = any_model.transformer
    batch = examples(model.config.shape, any_tokens.part("train", 2))
    said = answer(model, batch, [0, 2])
    x, around = model.prepare(*batch.tensors())
    assert torch.equal(said.logits, model(*batch.tensors()))
    assert torch.equal(said.hidden[0], x)
    assert torch.equal(model.predictions(said.hidden[1], around), said.logits)


def test_a_rotated_model_answers_in_the_channels_of_its_reference(tiny_model, tiny_tokens, context):
    model = tiny_model()
    rotated = Rotate(stream=True, down="none").run(model, context()).model
    batch = examples(model.shape, tiny_tokens.part("train", 2))
    with torch.no_grad():
        pairs = zip(*(answer(each.transformer, batch, [0, 1, 2]).hidden for each in (model, rotated)), strict=True)
    for theirs, own in pairs:
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


def test_a_step_draws_the_same_examples_always_and_others_next_time(draws):
    assert np.array_equal(draws.step(5), draws.step(5))
    assert not np.array_equal(draws.step(5), draws.step(6))
    assert len(set(draws.step(5) % 96)) == 8, "no picture twice in a step"


def test_a_share_of_the_examples_is_without_its_class(draws):
    drawn = np.concatenate([draws.step(step) for step in range(200)])
    assert np.mean(drawn >= 96) == pytest.approx(0.25, abs=0.03)
    inputs = draws.examples_at(np.array([4, 96 + 4]), 0).inputs
    assert inputs[0, 0] == 17 + draws.pictures.labels[4]
    assert inputs[1, 0] == 17 + 10
    assert np.array_equal(inputs[0, 1:], inputs[1, 1:])
    assert inputs[0, 1:].tolist() == draws.pictures.tokens[4, :-1].tolist()


def test_a_masked_model_is_asked_something_new_each_time_but_the_same_at_a_step(tiny_tokens, tiny_model):
    config = tiny_model(order="masked", positions="learned").transformer.config
    masked = Draws(tiny_tokens.part("train"), config, batch=8, null_share=0.25, seed=3)
    chosen = np.array([4, 5])
    first, again, later = (masked.examples_at(chosen, step).inputs for step in (6, 6, 7))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    teacher = Teacher(TokenTransformer(config), masked, [])
    teacher.prepare(2, quiet)
    assert not masked.recurring
    assert not teacher.place, "nothing is remembered"


def test_a_batch_larger_than_the_set_repeats_pictures(tiny_tokens, tiny_model):
    few = Draws(tiny_tokens.part("train", 3), tiny_model().transformer.config, batch=8, null_share=0.0, seed=0)
    assert few.step(0).shape == (8,)
    assert few.step(0).max() < 3


def test_what_is_remembered_is_what_the_reference_says(tiny_model, draws):
    model, reported = tiny_model().transformer, []
    teacher = Teacher(model, draws, [1, 2])
    teacher.prepare(6, lambda step, steps, values: reported.append((step, steps)))
    for step in range(6):
        remembered, batch = ask(teacher, draws, step), teacher.ask(draws.examples_at(draws.step(step), step))
        torch.testing.assert_close(remembered.logits, batch.logits, atol=1e-5, rtol=1e-5)
        for one, other in zip(remembered.hidden, batch.hidden, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=2**-8)  # kept as bfloat16
    count = len({int(example) for step in range(6) for example in draws.step(step)})
    assert reported[-1] == (count, count), "each example is scored once"


def test_without_hidden_states_only_logits_are_remembered(tiny_model, draws):
    teacher = Teacher(tiny_model().transformer, draws, [])
    teacher.prepare(2, quiet)
    assert ask(teacher, draws, 1).hidden == ()


def test_beyond_the_memory_bound_the_reference_is_asked_at_every_step(tiny_model, draws, monkeypatch):
    monkeypatch.setattr(teaching, "MOST_BYTES", 1000)
    teacher = Teacher(tiny_model().transformer, draws, [2])
    teacher.prepare(3, quiet)
    assert not teacher.place
    torch.testing.assert_close(ask(teacher, draws, 1).logits, teacher.ask(draws.examples_at(draws.step(1), 1)).logits)
