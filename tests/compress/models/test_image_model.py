"""An ImageModel draws and scores: with a cache as without one, the same seed the same pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes.quantize import Quantize
from export.runtime.sampling import Sampler


def test_scores_are_the_transformers_whatever_the_batch(any_model, any_tokens):
    batch = examples(any_model.shape, any_tokens.part("held_out", 5))
    scores = any_model.score(batch.inputs, batch.features, batch=2)
    assert scores.shape == (5, 64, any_model.shape.predicted)
    assert scores.dtype == np.float32
    with torch.no_grad():
        wanted = any_model.transformer(*batch.tensors()).numpy()
    np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_scoring_step_by_step_gives_the_same(any_model, any_tokens):
    batch = examples(any_model.shape, any_tokens.part("held_out", 3))
    given = (batch.inputs, batch.features)
    np.testing.assert_allclose(any_model.score_stepwise(*given), any_model.score(*given), atol=2e-5)


def test_a_quantized_model_scores_the_same_step_by_step(tiny_model, tiny_tokens, context):
    model = Quantize(activations="int8", dynamic=True).run(tiny_model(), context()).model
    inputs = examples(model.shape, tiny_tokens.part("held_out", 2)).inputs
    stepwise, whole = model.score_stepwise(inputs), model.score(inputs)
    # the cache changes the order of sums, so a rare activation falls on the other side of a rounding
    assert np.mean(np.abs(stepwise - whole) < 1e-4) > 0.9


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_likeliest_tokens_are_those_of_full_passes_without_a_cache(tiny_model, scale):
    model, labels = tiny_model(), np.array([3, 7])
    sampler = Sampler(cfg_scale=scale, temperature=0.0)
    drawn = model.draw_tokens(labels, sampler=sampler)
    inputs = np.stack([17 + labels, [27, 27]])[:, :, None]  # with the class, with the null class
    for position in range(64):
        with torch.no_grad():
            guided, null = (model.transformer(torch.from_numpy(rows))[:, -1] for rows in inputs)
        chosen = (null + scale * (guided - null)).argmax(-1).numpy()
        assert drawn[:, position].tolist() == chosen.tolist()
        inputs = np.concatenate([inputs, np.stack([chosen, chosen])[:, :, None]], axis=2)


def test_a_seed_draws_the_same_pictures_and_another_seed_others(tiny_model):
    model, labels = tiny_model(), np.array([0, 1, 2])
    first, again, other = (model.generate(labels, seed) for seed in (4, 4, 5))
    assert first.shape == (3, 8, 8, 1)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(model.generate(labels[:2], 4), first[:2]), "a picture does not depend on its neighbours"


def test_the_null_class_can_be_drawn_and_no_other_beyond(tiny_model):
    model = tiny_model()
    assert model.draw_tokens(np.array([10])).shape == (1, 64)
    with pytest.raises(ValueError, match="label 11 is not a class"):
        model.draw_tokens(np.array([11]))


def test_the_model_knows_its_numbers(tiny_model):
    model = tiny_model()
    assert (model.vocabulary, model.classes, model.length, model.parameters()) == (17, 10, 64, 17_472)


def test_another_transformer_keeps_the_rest(tiny_model):
    model, other = tiny_model(), tiny_model(seed=1)
    changed = model.with_transformer(other.transformer)
    assert changed.transformer is other.transformer
    assert changed.tokenizer == model.tokenizer
    assert changed.sampler == model.sampler
