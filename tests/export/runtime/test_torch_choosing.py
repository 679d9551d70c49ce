"""Tokens that are chosen on a device are those that NumPy chooses of the same logits and noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from export.runtime import choosing
from export.runtime.choosing import Choice
from export.runtime.cuts import CUTS
from export.runtime.errors import UnsoundLogitsError
from export.runtime.noise import SEEDS, Noise, NoiseOfEach
from export.runtime.torch_choosing import DeviceNoise, choose, mixed, shifted, signed

CUTTING: list[dict[str, float]] = [{}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 9, "top_p": 0.5}, {"top_k": 99}]


def test_whole_numbers_are_hashed_bit_by_bit_as_in_numpy() -> None:
    words = np.array([0, 1, SEEDS - 1, 2**63, 2**63 - 1, 0x9E3779B97F4A7C15], dtype=np.uint64)
    made = mixed(torch.from_numpy(words.copy().view(np.int64)))
    from export.runtime.noise import mixed as expected

    assert (made.numpy().view(np.uint64) == expected(words.copy())).all()
    assert shifted(torch.tensor([-1]), 41).tolist() == [2**23 - 1]
    assert [signed(2**63), signed(2**64 - 1), signed(5)] == [-(2**63), -1, 5]


@pytest.mark.parametrize("noise", [Noise(7, 3, 5), NoiseOfEach((Noise(1, 2, 3), Noise(SEEDS - 1, 1)))])
def test_noise_of_a_device_is_that_of_the_seed(noise) -> None:
    device = DeviceNoise(noise, torch, "cpu")
    assert device.count == 3
    for step, shape in ((0, (1, 50)), (5, (3, 40)), (6, (1, 50))):
        made = device.gumbel(step, shape)
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made.numpy(), noise.gumbel(step, shape), rtol=0, atol=2e-6)
    assert (device.gumbel(2, (9,), "place") == noise.gumbel(2, (9,), "place")).all()


@pytest.mark.parametrize("cuts", CUTTING, ids=lambda cuts: " ".join(cuts) or "all")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_device_chooses_what_numpy_chooses(cuts, temperature, guidance) -> None:
    noise = Noise(3, 3).gumbel(1, (4, 16))
    rows = 3 if guidance == 1 else 6
    logits = 3 * np.random.default_rng(0).standard_normal((rows, 4, 17)).astype(np.float32)  # the last is not drawn
    choice = Choice(noise, guidance, temperature, cuts)
    expected = choosing.choose(logits, choice, with_sureness=True)
    there = replace(choice, noise=torch.from_numpy(noise))
    found = choose(torch.from_numpy(logits), there, torch, with_sureness=True)
    assert (found.tokens == expected.tokens).all()
    np.testing.assert_allclose(found.logit, expected.logit, rtol=1e-6)
    np.testing.assert_allclose(found.log_probability, expected.log_probability, rtol=0, atol=2e-6)
    assert (choose(torch.from_numpy(logits), there, torch).tokens == expected.tokens).all()


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.name)
def test_each_cut_keeps_the_same_tokens_on_a_device(cut) -> None:
    scores = np.random.default_rng(1).standard_normal((2, 3, 20)).astype(np.float32)
    scores[0, 0, :4] = scores[0, 0].max() + 1  # ties
    for setting in (1, 3, 20, 0) if cut.name == "top_k" else (0.0, 0.3, 0.9, 1.0):
        expected = cut.keep(scores, setting)
        assert (cut.keep_on_device(torch.from_numpy(scores), setting).numpy() == expected).all()


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_unsound_logits_are_refused_as_in_numpy(value, said) -> None:
    logits = np.zeros((1, 2, 3), dtype=np.float32)
    logits[0, 1, 2] = value
    choice = Choice(torch.zeros(1, 2, 3), temperature=0.0)  # type: ignore[arg-type]
    with pytest.raises(UnsoundLogitsError, match=f"the model's logits hold {said}"):
        choose(torch.from_numpy(logits), choice, torch)
