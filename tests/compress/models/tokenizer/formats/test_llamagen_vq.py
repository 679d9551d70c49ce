"""LlamaGen's tokenizer against the original implementation's arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.core.settings import InputError
from compress.models.tokenizer.formats import llamagen_vq

GRID = {"grid": [4, 4]}


def test_codes_become_the_originals_pictures(golden, unit_pictures) -> None:
    case = golden("llamagen-vq")
    tokenizer = llamagen_vq.read(case.state, {**case.config, **GRID})
    with torch.no_grad():
        images, pixels = tokenizer.decoder()(torch.from_numpy(case.arrays["codes"]))
    assert np.allclose(pixels.permute(0, 3, 1, 2).numpy() * 2 - 1, case.arrays["decoded"], atol=1e-4)
    wanted = unit_pictures(case.arrays["decoded"], -1)
    assert np.array_equal(images.numpy(), wanted)
    assert np.array_equal(tokenizer.decode(case.arrays["codes"]), wanted)


def test_pictures_become_the_originals_codes(golden) -> None:
    case = golden("llamagen-vq")
    autoencoder = llamagen_vq.read(case.state, {**case.config, **GRID}).autoencoder
    with torch.no_grad():
        codes = autoencoder.quantize(autoencoder.latents(torch.from_numpy(case.arrays["image"])))
    assert np.array_equal(codes.flatten(1).numpy(), case.arrays["encoded_codes"])


@pytest.mark.parametrize(
    ("size", "grid", "channels"), [("VQ-16", 16, (128, 128, 256, 256, 512)), ("VQ-8", 32, (128, 256, 256, 512))]
)
def test_every_published_tensor_finds_its_place(published, size: str, grid: int, channels: tuple[int, ...]) -> None:
    state = published("llamagen-vq")[size]
    assert llamagen_vq.matches(state)
    with torch.device("meta"):
        tokenizer = llamagen_vq.read(state, {})
    config = tokenizer.autoencoder.config
    assert (config.encoder_channels, config.decoder_channels) == (channels, channels)
    assert (config.encoder_blocks, config.decoder_blocks, config.attention_levels) == (2, 3, (len(channels) - 1,))
    assert (tokenizer.vocabulary, tokenizer.grid, tokenizer.picture) == (16384, (grid, grid), (256, 256, 3))
    counted = sum(tensor.numel() for name, tensor in state.items() if name != "quantize.codebook_used")
    assert sum(tensor.numel() for tensor in tokenizer.state().values()) == counted


def test_what_is_wrong_is_named(golden) -> None:
    case = golden("llamagen-vq")
    config = {**case.config, **GRID}

    def refused(message: str, **changes: torch.Tensor | None) -> None:
        state = {name: value for name, value in {**case.state, **changes}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            llamagen_vq.read(state, config)

    refused(r"llamagen-vq: tensor 'decoder.mid.1.q.bias' is missing", **{"decoder.mid.1.q.bias": None})
    first = "decoder.conv_blocks.0.res.0.conv1.weight"
    refused(f"llamagen-vq: tensor '{first}' is missing", **{first: None})
    refused(
        r"tensor 'decoder.norm_out.bias' is \(16,\); the shapes of the others say \(32,\)",
        **{"decoder.norm_out.bias": torch.zeros(16)},
    )
    refused(r"tensor 'decoder.extra.weight' is not part of the model", **{"decoder.extra.weight": torch.zeros(2)})
    refused(
        r"tensor 'quantize.embedding.weight' holds NaN or Inf",
        **{"quantize.embedding.weight": torch.full((64, 8), torch.nan)},
    )
    refused("tensor 'encoder.conv_in.weight' is missing", **{"encoder.conv_in.weight": None})
    refused("tensor 'post_quant_conv.weight' is missing", **{"post_quant_conv.weight": None})
    for module in ("decoder.mid.1", "encoder.conv_blocks.1.attn.0"):
        refused(f"tensor '{module}.proj_out.weight' is missing", **{f"{module}.proj_out.weight": None})
    attention = {name: None for name in case.state if name.startswith("encoder.conv_blocks.1.attn.")}
    refused(r"encoder has attention in levels \(\) and the decoder in \(1,\)", **attention)
    refused("33 channels: norm_groups 32 must divide them", **{"encoder.conv_in.weight": torch.zeros(33, 3, 3, 3)})


def test_a_checkpoint_without_an_encoder_decodes_only(golden) -> None:
    case = golden("llamagen-vq")
    state = {name: value for name, value in case.state.items() if not name.startswith(("encoder.", "quant_conv."))}
    tokenizer = llamagen_vq.read(state, {**case.config, **GRID})
    assert tokenizer.encoder() is None
    whole = llamagen_vq.read(case.state, {**case.config, **GRID})
    assert np.array_equal(tokenizer.decode(case.arrays["codes"]), whole.decode(case.arrays["codes"]))
    with pytest.raises(ValueError, match="only decodes"):
        tokenizer.encode(np.zeros((1, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="no encoder"):
        tokenizer.autoencoder.latents(torch.zeros(1, 3, 8, 8))


def test_the_grid_is_checked(golden) -> None:
    case = golden("llamagen-vq")
    assert llamagen_vq.read(case.state, case.config).grid == (128, 128)  # 256 pixels where nothing is said
    assert llamagen_vq.read(case.state, {"image_size": 12}).grid == (6, 6)
    with pytest.raises(InputError, match=r"image_size: 13 is not a multiple of 2 pixels"):
        llamagen_vq.read(case.state, {"image_size": 13})
    with pytest.raises(InputError, match=r"grid: \[4\] is not a pair of whole numbers"):
        llamagen_vq.read(case.state, {"grid": [4]})
