from dataclasses import replace

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from compress.measure.drift.sampled import sampled
from export.runtime.choosing import Choice, choose
from export.runtime.noise import Noise
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

SHAPE = Shape("causal", 30, 3, (2, 3))


def logits(seed: int, pictures: int = 40) -> np.ndarray:
    return (2 * np.random.default_rng(seed).normal(size=(pictures, 6, 30))).astype(np.float32)


def chunked(reference, candidate, scored=None):
    scored = np.ones((40, 6), dtype=bool) if scored is None else scored
    for start in range(0, 40, 15):
        rows = slice(start, start + 15)
        pairs = [(given[rows], None if null is None else null[rows]) for given, null in (reference, candidate)]
        yield pairs[0], pairs[1], scored[rows]


def near(pair, size=0.3):
    return tuple(None if each is None else each + size * logits(9 + place) / 2 for place, each in enumerate(pair))


def test_guidance_and_temperature_are_applied_before_kl_and_cuts_before_total_variation():
    sampler = Sampler(cfg_scale=2.5, temperature=0.8, top_k=7)
    reference = (logits(0), logits(1))
    candidate = near(reference)
    found = sampled(chunked(reference, candidate), SHAPE, sampler)
    scores = [(null + 2.5 * (given - null)).astype(np.float64) / 0.8 for given, null in (reference, candidate)]
    p, q = (softmax(each, axis=-1) for each in scores)
    assert found.kl == pytest.approx(rel_entr(p, q).sum(-1).mean(), rel=1e-4)
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    cut = [np.where(each < np.sort(each, axis=-1)[..., -7, None], -np.inf, each) for each in scores]
    p, q = (softmax(each, axis=-1) for each in cut)
    apart = np.abs(p - q).sum(-1) / 2
    assert found.total_variation == pytest.approx(apart.mean(), rel=1e-4)
    assert found.flip_bound == pytest.approx((2 * apart / (1 + apart)).mean(), rel=1e-4)


def test_tokens_flip_as_those_that_are_drawn_with_the_same_noise():
    """The flips are those of `export.runtime.choosing`, which every engine is compared with."""
    sampler = Sampler(top_p=0.9)
    reference = (logits(0), None)
    candidate = near(reference)
    found = sampled(chunked(reference, candidate), SHAPE, sampler, seed=5)
    choice = Choice(Noise(5, 40).gumbel(0, (6, 30)), cuts={"top_p": 0.9})
    drawn = [choose(given, choice).tokens for given, _ in (reference, candidate)]
    assert found.flip_rate == pytest.approx((drawn[0] != drawn[1]).mean())


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
def test_the_flip_rate_keeps_its_bound_over_many_seeds(size):
    reference = (logits(0), None)
    candidate = near(reference, size)
    found = [sampled(chunked(reference, candidate), SHAPE, Sampler(), seed) for seed in range(20)]
    rate = np.mean([each.flip_rate for each in found])
    assert found[0].total_variation * 0.9 < rate < found[0].flip_bound
    assert rate > 0


def test_equal_models_flip_nothing():
    pair = (logits(0), logits(1))
    found = sampled(chunked(pair, pair), SHAPE, Sampler(cfg_scale=3.0, top_k=4))
    assert (found.kl, found.total_variation, found.flip_rate, found.flip_bound) == (0, 0, 0, 0)
    assert found.agreement == 1


def test_without_noise_the_likeliest_is_drawn():
    reference = (logits(0), None)
    candidate = near(reference)
    found = sampled(chunked(reference, candidate), SHAPE, Sampler(temperature=0.0))
    assert found.flip_rate == pytest.approx(1 - found.agreement)
    assert found.total_variation == found.flip_rate


def test_dropped_guidance_shows_though_both_branches_are_right():
    given, null = logits(0), logits(1)
    found = sampled(chunked((given, null), (given, given)), SHAPE, Sampler(cfg_scale=2.0))
    assert found.kl > 0.5


def test_a_token_belongs_to_the_step_that_draws_it():
    ones = np.ones((2, 6), dtype=bool)
    assert SHAPE.drawing.step_of_each(ones, SHAPE, Sampler())[0][1].tolist() == [0, 1, 2, 3, 4, 5]
    scales = replace(SHAPE, order="next-scale", scales=(1, 2))
    assert scales.drawing.step_of_each(np.ones((1, 5), dtype=bool), scales, Sampler())[0].tolist() == [[0, 1, 1, 1, 1]]
    masked = replace(SHAPE, order="masked", grid=(4, 4))
    scored = np.zeros((2, 16), dtype=bool)
    scored[0], scored[1, :1] = True, True
    steps, count = masked.drawing.step_of_each(scored, masked, Sampler(steps=4))
    assert (steps[:, 0].tolist(), count) == ([0, 3], 4)
