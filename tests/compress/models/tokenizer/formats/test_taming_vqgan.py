"""taming's VQGAN by its names: the arithmetic is that of VAR's autoencoder, whose golden case stands in for it."""

from __future__ import annotations

import pytest
import torch

from compress.models.tokenizer import formats
from compress.models.tokenizer.formats import taming_vqgan, var_vqvae


@pytest.fixture(scope="module")
def var(golden):
    return golden("var-vqvae")


def as_taming(state, prefix: str = "") -> dict[str, torch.Tensor]:
    """VAR's autoencoder written as taming writes it: query, key and value apart, one scale, nothing to smooth."""
    found = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                found[prefix + name.replace(".qkv.", f".{part}.")] = rows
        elif "quant_resi" not in name and "ema_vocab" not in name:
            found[prefix + name] = tensor
    return found


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_weights_are_found_under_either_prefix(var, prefix: str) -> None:
    state = as_taming(var.state, prefix)
    if prefix:
        state["transformer.tok_emb.weight"] = torch.zeros(2, 2)
    state[f"{prefix}loss.discriminator.main.0.weight"] = torch.zeros(2, 2)
    assert formats.recognise(state) == "taming-vqgan"
    tokenizer = taming_vqgan.read(state, {"ddconfig": {"resolution": 64}})
    assert (tokenizer.grid, tokenizer.picture, tokenizer.autoencoder.config.scales) == ((4, 4), (64, 64, 3), None)
    original = var_vqvae.read(var.state, var.config).autoencoder
    codes = torch.arange(16).reshape(1, 4, 4)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        latents = tokenizer.autoencoder.lookup(codes)
        assert torch.equal(latents, original.embedding.weight[:16].T.reshape(1, 8, 4, 4))
        assert torch.allclose(tokenizer.autoencoder.decode(latents), original.decode(latents), atol=1e-5)
        assert torch.allclose(tokenizer.autoencoder.latents(pixels), original.latents(pixels), atol=1e-5)


def test_attention_that_is_missing_is_named(var) -> None:
    state = as_taming(var.state, "first_stage_model.")
    del state["first_stage_model.decoder.up.4.attn.1.k.weight"]
    with pytest.raises(formats.InputError, match=r"c.ckpt: taming-vqgan: tensor 'first_stage_model.decoder.up.4"):
        formats.read(state, {}, "c.ckpt")
