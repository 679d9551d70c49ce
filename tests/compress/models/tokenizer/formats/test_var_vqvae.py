"""VAR's multi-scale tokenizer against the original implementation's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer.formats import var_vqvae


@pytest.fixture(scope="module")
def tokens(golden) -> torch.Tensor:
    arrays = golden("var-vqvae").arrays
    return torch.from_numpy(np.concatenate([arrays[f"tokens_{scale}"] for scale in range(4)], axis=1))


@pytest.fixture(scope="module")
def tokenizer(golden):
    case = golden("var-vqvae")
    return var_vqvae.read(case.state, case.config)


def test_tokens_of_all_scales_become_the_originals_pictures(golden, tokenizer, tokens) -> None:
    with torch.no_grad():
        _, pixels = tokenizer.decoder()(tokens)
    shown = pixels.permute(0, 3, 1, 2).numpy() * 2 - 1
    assert np.allclose(shown.clip(-1, 1), golden("var-vqvae").arrays["decoded_image"], atol=1e-4)
    assert (tokenizer.length, tokenizer.grid, tokenizer.picture) == (30, (4, 4), (64, 64, 3))


def test_the_transformers_inputs_are_the_originals(golden_arrays, tokenizer, tokens) -> None:
    arrays = golden_arrays("var")
    with torch.no_grad():
        found = tokenizer.autoencoder.quantizer.features(tokens)
    assert np.array_equal(arrays["tokens_3"], tokens[:, 14:])
    assert np.allclose(found, arrays["var_input"], atol=1e-4)


def test_pictures_survive_when_they_are_what_tokens_say(tokenizer, tokens) -> None:
    with torch.no_grad():
        quantizer = tokenizer.autoencoder.quantizer
        latents = quantizer.lookup(tokens)
        again = quantizer.lookup(quantizer.quantize(latents))
    assert (again - latents).square().mean() < 0.5 * latents.square().mean()


def test_every_published_tensor_finds_its_place(published) -> None:
    state = published("var-vqvae")["vae_ch160v4096z32"]
    assert var_vqvae.matches(state)
    with torch.device("meta"):
        tokenizer = var_vqvae.read(state, {})
    config = tokenizer.autoencoder.config
    assert config.encoder_channels == config.decoder_channels == (160, 160, 320, 320, 640)
    assert (config.codes, config.code_width, config.quant_kernel, config.scales.convs) == (4096, 32, 3, 4)
    assert (tokenizer.length, tokenizer.grid, tokenizer.picture) == (680, (16, 16), (256, 256, 3))
    with torch.device("meta"):
        larger = var_vqvae.read(state, {"image_size": 512})
    assert (larger.length, larger.grid, larger.picture) == (2240, (32, 32), (512, 512, 3))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_nums": 4}, "patch_nums: 4 is not a list of whole numbers"),
        ({"patch_nums": [4, 2]}, r"patch_nums: sides \(4, 2\): need at least one, none finer than the next"),
        ({"grid": [4, 4]}, "patch_nums: missing, and no published scales end at 4; write the sides of all scales"),
        ({"quant_resi": "half"}, "quant_resi: 'half' is not a number"),
    ],
)
def test_scales_that_are_none_are_refused(published, config, message: str) -> None:
    state = published("var-vqvae")["vae_ch160v4096z32"]
    with pytest.raises(InputError, match=message):
        var_vqvae.read(state, config)
