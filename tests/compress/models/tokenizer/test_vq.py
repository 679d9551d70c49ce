"""The VQ autoencoder, on arithmetic worked by hand and against its own parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress.models.tokenizer.codebook import Codebook
from compress.models.tokenizer.vq import ResidualBlock, VqAutoencoder, VqConfig

SMALL = {
    "codes": 16,
    "code_width": 4,
    "latent_width": 8,
    "encoder_channels": (8, 16),
    "decoder_channels": (8, 16),
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "norm_groups": 4,
}


def small(**changes) -> VqAutoencoder:
    torch.manual_seed(0)
    return VqAutoencoder(VqConfig(**{**SMALL, **changes})).eval()


def test_pictures_shrink_to_a_grid_and_grow_back() -> None:
    autoencoder = small(attention_levels=(1,))
    pixels = torch.rand(2, 3, 8, 12)
    with torch.no_grad():
        latents = autoencoder.latents(pixels)
        codes = autoencoder.quantize(latents)
        looked_up = autoencoder.lookup(codes)
        again = autoencoder.decode(looked_up)
    assert latents.shape == looked_up.shape == (2, 4, 4, 6)
    assert (codes.shape, codes.dtype) == ((2, 4, 6), torch.int64)
    assert again.shape == pixels.shape
    assert torch.equal(looked_up[1, :, 2, 3], autoencoder.embedding.weight[codes[1, 2, 3]])


def test_the_nearest_code_is_taken_and_equals_take_the_first() -> None:
    book = Codebook(3, 2)
    book.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    points = torch.tensor([[0.4, 0.0], [0.6, 0.0], [0.0, 1.6], [0.5, 0.0]])
    assert book.nearest(points).tolist() == [0, 1, 2, 0]


def test_normalised_codes_are_compared_by_direction() -> None:
    book = Codebook(2, 2, normalised=True)
    book.embedding.weight.data = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    assert book.nearest(torch.tensor([[1.0, 2.0], [9.0, 8.0]])).tolist() == [1, 0]
    assert torch.equal(book.lookup(torch.tensor([[[1]]])), torch.tensor([[[[0.0]], [[1.0]]]]))


def test_the_shortcut_takes_the_input_or_the_output() -> None:
    for shortcut in ("input", "output"):
        config = VqConfig(**{**SMALL, "shortcut": shortcut, "bias": False})
        block = ResidualBlock(config, 8, 16)
        x = torch.randn(1, 8, 4, 4)
        y = block.conv1(functional.silu(block.norm1(x)))
        y = block.conv2(functional.silu(block.norm2(y)))
        wanted = block.shortcut(x if shortcut == "input" else y) + y
        assert torch.equal(block(x), wanted)
        assert block.conv1.bias is None


def test_gradients_reach_the_codes_and_both_sides() -> None:
    autoencoder = small()
    latents = autoencoder.latents(torch.rand(1, 3, 8, 8))
    nearest = autoencoder.lookup(autoencoder.quantize(latents))
    passed_on = latents + (nearest - latents).detach()
    loss = autoencoder.decode(passed_on).square().mean() + (nearest - latents.detach()).square().mean()
    loss.backward()
    assert autoencoder.embedding.weight.grad is not None
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": 0}, "codes 0: must be at least 1"),
        ({"codes": 2**21}, "codes 2097152: must be at most 1048576"),
        ({"norm_epsilon": -1.0}, r"norm_epsilon -1\.0: must be between 0 and 1"),
        ({"encoder_channels": (8,)}, r"encoder_channels \(8,\) and decoder_channels \(8, 16\): need the same number"),
        ({"decoder_channels": (8, 10)}, "10 channels: norm_groups 4 must divide them"),
        ({"attention_levels": (2,)}, r"attention_levels \(2,\): there are levels 0 to 1"),
        ({"quant_kernel": 5}, "quant_kernel 5 and head_kernel 3: known are 1 and 3"),
        ({"quant_kernel": 0}, "code_width 4 is not latent_width 8; that takes a quant_kernel"),
    ],
)
def test_numbers_that_no_autoencoder_has_are_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VqConfig(**{**SMALL, **changes})
