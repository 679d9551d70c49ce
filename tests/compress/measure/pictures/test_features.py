"""Features that are on hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.measure.pictures.features import of_tokenizer
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig


@pytest.mark.parametrize("pixel_range", ["signed", "unit"])
def test_vq_features_are_the_encoders_latents_averaged_over_places(pixel_range, tiny_model) -> None:
    torch.manual_seed(0)
    autoencoder = VqAutoencoder(VqConfig(17, 4, 8, (4, 4), (4, 4), 1, 1, norm_groups=2, pixel_range=pixel_range))
    tokenizer = VqTokenizer(autoencoder.eval().requires_grad_(False), (8, 8))
    model = tiny_model()
    model = type(model)(model.name, model.family, model.transformer, tokenizer, model.sampler)
    tokens = np.random.default_rng(0).integers(0, 17, (3, 64))
    extractor = of_tokenizer(model)
    assert extractor is not None
    pixels = torch.from_numpy(tokenizer.decode(tokens)).permute(0, 3, 1, 2) / 255
    latents = autoencoder.latents(pixels * 2 - 1 if pixel_range == "signed" else pixels)
    assert extractor.name == "VQ"
    np.testing.assert_allclose(extractor.features(tokens), latents.mean(dim=(2, 3)).numpy(), atol=1e-6)


def test_a_tokenizer_of_grey_levels_has_no_encoder_with_features(tiny_model) -> None:
    assert of_tokenizer(tiny_model()) is None
