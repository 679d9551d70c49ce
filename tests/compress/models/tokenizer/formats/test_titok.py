"""TiTok's tokenizers; the golden arrays came from a transcription of the published code (1d-tokenizer at 10113ad)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer import formats
from compress.models.tokenizer.formats import titok
from compress.models.tokenizer.titok import TitokConfig, VitConfig

CASES = ("titok", "titok-pixels")  # through the MaskGIT-VQGAN's codes, and drawing pixels itself


@pytest.mark.parametrize("name", CASES)
def test_tokens_become_the_originals_pictures(golden, name: str) -> None:
    case = golden(name)
    assert formats.recognise(case.state) == "titok"
    tokenizer = titok.read(case.state, case.config)
    assert (tokenizer.grid, tokenizer.length, tokenizer.picture) == ((1, 6), 6, (16, 16, 3))
    with torch.no_grad():
        _, pixels = tokenizer.decoder()(torch.from_numpy(case.arrays["codes"]))
    assert np.allclose(pixels.permute(0, 3, 1, 2), case.arrays["decoded_unclamped"], atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_pictures_become_the_originals_codes(golden, name: str) -> None:
    case = golden(name)
    autoencoder = titok.read(case.state, case.config).autoencoder
    with torch.no_grad():
        latents = autoencoder.latents(torch.from_numpy(case.arrays["image"]))
    assert np.allclose(latents, case.arrays["latents"], atol=1e-4)
    assert np.array_equal(autoencoder.quantize(latents).flatten(1), case.arrays["encoded_codes"])


def test_what_is_wrong_is_named(golden) -> None:
    case = golden("titok")

    def refused(message: str, remove: str = "", **add: torch.Tensor) -> None:
        state = {name: value for name, value in {**case.state, **add}.items() if name != remove}
        with pytest.raises(InputError, match=message):
            titok.read(state, case.config)

    refused("tensor 'encoder.transformer.1.attn.in_proj_bias' is missing", "encoder.transformer.1.attn.in_proj_bias")
    refused("tensor 'pixel_decoder.norm_out.bias' is missing", "pixel_decoder.norm_out.bias")
    refused("tensor 'pixel_decoder.more' is not part of the model", **{"pixel_decoder.more": torch.zeros(1)})
    refused(
        r"tensor 'encoder.transformer.0.attn.in_proj_weight' is \(64, 64\); the shapes of the others say \(192, 64\)",
        **{"encoder.transformer.0.attn.in_proj_weight": torch.zeros(64, 64)},
    )
    refused(
        "the encoder reads pictures of 16 pixels and the decoder draws 8",
        **{"decoder.positional_embedding": torch.zeros(17, 64)},
    )


def test_numbers_that_no_tokenizer_has_are_refused() -> None:
    vit = VitConfig(64, 1, 4, 4)
    with pytest.raises(ValueError, match="width must be a multiple of 64"):
        VitConfig(65, 1, 4, 4)
    with pytest.raises(ValueError, match="codes 0: must be at least 1"):
        TitokConfig(0, 4, 6, vit, vit)
    with pytest.raises(ValueError, match="the encoder reads pictures of 16 pixels and the decoder draws 8"):
        TitokConfig(8, 4, 6, vit, VitConfig(64, 1, 4, 2))
