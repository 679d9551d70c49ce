"""An int8 cache holds what rounding by hand gives, draws in one file too, and both ways of scoring agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.rewrites.cache_quantization import cache_scales, with_int8_cache
from export.rewrites.sampling_graph import with_sampling
from export.rewrites.single_file import single_file
from export.runtime.manifest import GENERATE
from export.targets import fuse


def test_the_scale_of_a_channel_is_its_largest_number_over_127() -> None:
    seen = np.zeros((2, 1, 3, 2), dtype=np.float32)
    seen[1, 0, 2] = [-12.7, 0]
    np.testing.assert_allclose(cache_scales(seen), [0.1, 1e-8])
    two = np.stack([np.full((1, 2), 127.0), np.full((1, 2), 254.0)])[None]  # (1, 2 heads, 1, 2)
    np.testing.assert_allclose(cache_scales(two.astype(np.float32)), [1, 1, 2, 2])


@pytest.mark.parametrize("kind", ["rotary", "grouped", "learned", "zero prefix"])
def test_the_cache_holds_rounded_keys_and_values_and_scores_stay_near(kind, exported, engine_of, inputs) -> None:
    model = fuse(exported(kind)).model
    exact = engine_of(model)
    seen = exact.caches(inputs)
    scales = {name: cache_scales(value) for name, value in seen.items()}
    made = with_int8_cache(model, scales)
    engine = engine_of(made)
    held, first = engine.caches(inputs), ("0.key", "0.value")
    for name in first:  # those of later layers depend on what attention made of the rounded ones
        heads, width = seen[name].shape[1], seen[name].shape[3]
        wanted = np.rint(seen[name] / scales[name].reshape(heads, 1, width))
        assert held[name].dtype == np.int8
        assert np.abs(held[name] - wanted).max() <= 1
        assert (held[name] == wanted).mean() > 0.99
    logits = engine.score(inputs)
    moved = np.abs(logits - exact.score(inputs))
    assert 0 < moved.max() < 0.15 * np.std(logits)
    np.testing.assert_allclose(engine.score_stepwise(inputs), logits, atol=1e-4)


def test_an_int8_cache_draws_the_same_step_by_step_and_in_one_file(exported, engine_of, inputs) -> None:
    model = with_sampling(fuse(exported("rotary")).model)
    scales = {name: cache_scales(value) for name, value in engine_of(model).caches(inputs).items()}
    model = with_int8_cache(model, scales)
    files = {**model.manifest.files, "generate": GENERATE}
    engine = engine_of(replace(model, generate=single_file(model), manifest=replace(model.manifest, files=files)))
    tokens, _ = engine.draw_in_one(np.arange(3), 2)
    np.testing.assert_array_equal(tokens, engine.draw_tokens(np.arange(3), 2))
