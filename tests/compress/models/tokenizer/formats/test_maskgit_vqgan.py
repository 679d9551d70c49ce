"""The MaskGIT-VQGAN of RAR against the original implementation's arrays."""

from __future__ import annotations

import numpy as np
import torch

from compress.models.tokenizer.formats import maskgit_vqgan


def test_codes_become_the_originals_pictures(golden, unit_pictures) -> None:
    case = golden("rar-vqgan")
    tokenizer = maskgit_vqgan.read(case.state, case.config)
    assert (tokenizer.grid, tokenizer.picture, tokenizer.vocabulary) == ((8, 8), (16, 16, 3), 64)
    with torch.no_grad():
        images, pixels = tokenizer.decoder()(torch.from_numpy(case.arrays["codes"]))
    assert np.allclose(pixels.permute(0, 3, 1, 2).numpy(), case.arrays["decoded_unclamped"], atol=1e-4)
    assert np.array_equal(images.numpy(), unit_pictures(case.arrays["decoded"], 0))


def test_pictures_become_the_originals_codes(golden) -> None:
    case = golden("rar-vqgan")
    autoencoder = maskgit_vqgan.read(case.state, case.config).autoencoder
    with torch.no_grad():
        codes = autoencoder.quantize(autoencoder.latents(torch.from_numpy(case.arrays["image"])))
    assert np.array_equal(codes.flatten(1).numpy(), case.arrays["encoded_codes"])


def test_the_shortcut_takes_the_blocks_output(golden) -> None:
    case = golden("rar-vqgan")
    config = maskgit_vqgan.read(case.state, case.config).autoencoder.config
    assert (config.shortcut, config.bias, config.downsample) == ("output", False, "pool")
    assert case.state["decoder.up.0.block.0.nin_shortcut.weight"].shape[:2] == (32, 32)  # and not (32, 64)
