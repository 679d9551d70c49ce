"""The student's own pictures: drawn by seed and step, kept until the next drawing, and held by a checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.training.divergence import Divergence
from compress.training.lesson import Lesson
from compress.training.on_policy import OwnPictures
from compress.training.teaching import Draws, Teacher
from export.runtime.sampling import Sampler


class Student:
    """A model that counts how often it was asked to draw, and becomes another each time."""

    def __init__(self, tiny_model, **changes):
        self.make, self.times = lambda seed: tiny_model(seed=seed, layers=1, **changes).transformer, 0

    def __call__(self):
        self.times += 1
        return self.make(self.times)


@pytest.fixture
def own(tiny_model, tiny_tokens):
    def make(student=None, seed=5):
        training = tiny_tokens.part("train")
        return OwnPictures(
            student or Student(tiny_model), Sampler(cfg_scale=1.5), training, count=4, every=3, seed=seed
        )

    return make


def test_pictures_are_drawn_every_so_many_steps_with_conditions_of_training_pictures(tiny_model, own):
    student = Student(tiny_model)
    pictures = own(student)
    steps = [pictures.at(step, 3) for step in range(4)]
    assert student.times == 2, "at steps 0 and 3"
    assert len({tuple(row) for row in steps[0].tokens}) == 3
    assert {tuple(row) for each in steps[1:3] for row in each.tokens} <= {
        tuple(row) for each in steps[:3] for row in each.tokens
    }
    assert not {tuple(row) for row in steps[3].tokens} & {tuple(row) for row in steps[0].tokens}


def test_what_is_drawn_follows_from_seed_and_step_and_weights_alone(tiny_model, own):
    one, same, other = (own(Student(tiny_model), seed) for seed in (5, 5, 6))
    first = one.at(0, 4)
    assert np.array_equal(first.tokens, same.at(0, 4).tokens)
    assert not np.array_equal(first.tokens, other.at(0, 4).tokens)
    labels = one.training.labels
    assert np.array_equal(np.sort(first.labels), np.sort(labels[one.rows]))


def test_a_drawing_that_was_kept_is_gone_on_with(tiny_model, own):
    before, student = own(), Student(tiny_model)
    before.at(0, 4)
    after = own(student)
    after.load_state_dict(before.state_dict())
    assert np.array_equal(after.at(1, 2).tokens, before.at(1, 2).tokens)
    assert student.times == 0


NEXT_SCALE = {
    "order": "next-scale",
    "grid": (7, 7),
    "scales": (1, 1, 2, 3, 7),
    "latent_width": 6,
    "positions": "learned",
    "modulation": "class",
}


@pytest.mark.parametrize(
    "kind", [{}, {"order": "masked", "positions": "learned"}, NEXT_SCALE], ids=["causal", "masked", "next-scale"]
)
@pytest.mark.parametrize("own_count", [2, 6])
def test_a_batch_holds_own_pictures_behind_those_of_training(tiny_model, tiny_tokens, kind, own_count):
    reference = tiny_model(seed=9, **kind).transformer
    training = tiny_tokens.part("train")
    own = OwnPictures(
        lambda: tiny_model(seed=1, **kind).transformer, Sampler(steps=3), training, count=6, every=2, seed=3
    )
    draws = Draws(training, reference.config, batch=6 - own_count, null_share=0.25, seed=3)
    teacher = Teacher(reference, draws, [2])
    teacher.prepare(4, lambda step, steps, values: None)
    student = tiny_model(seed=2, **kind).transformer
    lesson = Lesson(
        student, teacher, draws, Divergence(), own_layers=[2], hidden=1.0, parts=2, own=own, own_count=own_count
    )
    batch, said = lesson.taught(0)
    assert len(batch) == len(said.logits) == len(said.hidden[0]) == 6
    drawn = {tuple(row) for row in own.tokens}
    assert [tuple(row) in drawn for row in batch.targets] == [False] * (6 - own_count) + [True] * own_count
    wanted = teacher.ask(batch)
    torch.testing.assert_close(said.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    assert all(torch.isfinite(part()) for part in lesson(1))
