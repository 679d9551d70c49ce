"""A model with its guidance applied: its logits against the formula by hand, its pictures against the model's own."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from compress.models.guided import Guided, guidance_of, scored_of
from compress.models.transformer.examples import examples
from export.runtime.drawing import Shape
from export.runtime.sampling import Sampler


def both(model, batch):
    """Logits with and without class."""
    null = batch.unconditional(model.shape)
    return model.score(batch.inputs, batch.features), model.score(null.inputs, null.features)


def test_logits_are_led_away_from_those_without_class(any_model, any_tokens):
    batch = examples(any_model.shape, any_tokens.part("held_out", 3))
    given, null = both(any_model, batch)
    guided = Guided(any_model, Sampler(cfg_scale=2.5))
    np.testing.assert_allclose(guided.score(batch.inputs, batch.features), null + 2.5 * (given - null), atol=1e-5)


def test_logits_step_by_step_are_led_alike(tiny_model, tiny_tokens):
    model = tiny_model(layers=1)
    guided, batch = Guided(model, model.sampler), examples(model.shape, tiny_tokens.part("held_out", 1))
    np.testing.assert_allclose(guided.score_stepwise(batch.inputs), guided.score(batch.inputs), atol=1e-4)


def test_guidance_that_grows_is_that_of_each_tokens_step(tiny_model, tiny_tokens):
    model = tiny_model()
    batch = examples(model.shape, tiny_tokens.part("held_out", 2))
    given, null = both(model, batch)
    scales = 1 + 2 * np.arange(64) / 63  # linear from 1 to 3
    found = Guided(model, Sampler(cfg_scale=3.0, guidance="linear")).score(batch.inputs)
    np.testing.assert_allclose(found, null + scales[None, :, None] * (given - null), atol=1e-4)


def test_the_step_of_a_masked_picture_is_how_much_of_it_is_masked():
    shape = Shape("masked", 17, 10, (2, 2))
    inputs = np.array([[18, 17, 17, 17, 17], [18, 3, 17, 3, 3]])
    scored = scored_of(shape, inputs)
    assert scored.tolist() == [[True] * 4, [False, True, False, False]]
    # two steps, of which the first sees all masked
    sampler = Sampler(cfg_scale=3.0, guidance="linear", steps=2, schedule="linear")
    assert guidance_of(sampler, shape, scored)[:, 0].tolist() == [1.0, 3.0]


def test_it_draws_what_the_model_draws_with_two_rows_and_is_otherwise_the_model(tiny_model):
    model = tiny_model(sampler=Sampler(cfg_scale=3.0))
    guided = Guided(model, model.sampler)
    labels = np.array([1, 2])
    assert np.array_equal(guided.draw_tokens(labels, seed=4), model.draw_tokens(labels, seed=4))
    assert guided.sampler == Sampler(cfg_scale=3.0, guidance_inside=True)
    assert guided.transformer is model.transformer
    assert guided.shape == model.shape
    assert copy.copy(guided).shape == model.shape
    with pytest.raises(AttributeError):
        guided.manifest  # noqa: B018
