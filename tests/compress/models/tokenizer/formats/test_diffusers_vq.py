"""diffusers' VQModel read by names, against diffusers itself on random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer.formats import diffusers_vq

VqModel = pytest.importorskip("diffusers").VQModel

LIKE_AMUSED = {
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 16,
    "num_vq_embeddings": 64,
    "lookup_from_codebook": True,
    "mid_block_add_attention": False,
}
WITH_ATTENTION = {
    **LIKE_AMUSED,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "layers_per_block": 1,
    "mid_block_add_attention": True,
    "vq_embed_dim": 8,
    "norm_num_groups": 16,
}


@pytest.fixture(params=[LIKE_AMUSED, WITH_ATTENTION], ids=["amused", "attention"])
def original(request):
    torch.manual_seed(3)
    model = VqModel(**request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.quantize.embedding.weight.normal_()
    return model


def test_codes_and_pictures_are_those_of_diffusers(original) -> None:
    state = original.state_dict()
    assert diffusers_vq.matches(state)
    tokenizer = diffusers_vq.read(state, {**original.config, "grid": [4, 4]})
    pixels = torch.rand(2, 3, *tokenizer.picture[:2])
    autoencoder = tokenizer.autoencoder
    with torch.no_grad():
        latents = original.encode(pixels).latents
        codes = original.quantize(latents)[2][2].reshape(2, 4, 4)
        shape = (2, 4, 4, autoencoder.config.code_width)
        decoded = original.decode(codes, force_not_quantize=True, shape=shape).sample
        assert torch.allclose(autoencoder.latents(pixels), latents, atol=1e-4)
        assert torch.equal(autoencoder.quantize(latents), codes)
        _, found = tokenizer.decoder()(codes.flatten(1))
    assert np.allclose(found.permute(0, 3, 1, 2), decoded, atol=1e-4)


def test_amuseds_size_is_inferred() -> None:
    published = {
        "block_out_channels": (128, 256, 256, 512, 768),
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
        "latent_channels": 64,
        "num_vq_embeddings": 8192,
    }
    with torch.device("meta"):
        model = VqModel(**{**LIKE_AMUSED, **published})
        tokenizer = diffusers_vq.read(model.state_dict(), model.config)
    counted = sum(tensor.numel() for tensor in model.state_dict().values())
    assert sum(tensor.numel() for tensor in tokenizer.state().values()) == counted
    assert round(counted / 1e6, 2) == 146.24  # as aMUSEd's paper says: 146M
    assert (tokenizer.vocabulary, tokenizer.grid, tokenizer.picture) == (8192, (16, 16), (256, 256, 3))


def test_spatial_norms_are_refused() -> None:
    with pytest.raises(InputError, match="norm_type: 'spatial' is not supported"):
        diffusers_vq.read({}, {"norm_type": "spatial"})
