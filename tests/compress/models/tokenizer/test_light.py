"""The light decoder, against arithmetic by hand, and as a part of the autoencoder."""

from __future__ import annotations

import re

import pytest
import torch

from compress.models.tokenizer.light import LightConfig, PlainBlock, SubPixel
from compress.models.tokenizer.model import VqTokenizer, build
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig

PLAIN = {"codes": 16, "code_width": 4, "latent_width": 8, "encoder_channels": (), "decoder_channels": (8, 8, 16)}


def light(channels: tuple[int, ...], blocks: tuple[int, ...]) -> VqAutoencoder:
    torch.manual_seed(0)
    config = VqConfig(**PLAIN, norm_groups=4, middle_attention=False, light=LightConfig(channels, blocks))
    return VqAutoencoder(config).eval()


@pytest.mark.parametrize(("channels", "blocks"), [((16,), (1,)), ((16, 5), (0, 2)), ((16, 8, 3), (1, 1, 0))])
def test_pixels_have_the_size_of_the_picture_however_few_levels_are_computed(channels, blocks) -> None:
    autoencoder = light(channels, blocks)
    with torch.no_grad():
        made = autoencoder.decode(autoencoder.lookup(torch.zeros(2, 3, 5, dtype=torch.int64)))
    assert made.shape == (2, 3, 12, 20)
    assert sum("norm" in name for name, _ in autoencoder.decoder.named_parameters()) == 4 * blocks[0]


def test_a_plain_block_adds_two_convolutions_and_a_relu() -> None:
    block = PlainBlock(1)
    with torch.no_grad():
        for conv, middle, bias in ((block.conv1, 2.0, -1.0), (block.conv2, 3.0, 0.5)):
            conv.weight.zero_()
            conv.weight[0, 0, 1, 1] = middle
            conv.bias.fill_(bias)
        made = block(torch.tensor([[[[1.0, -1.0]]]]))
    assert made.tolist() == [[[[1 + 3 * (2 - 1) + 0.5, -1 + 3 * 0 + 0.5]]]]  # relu(2 x - 1), then 3 y + 0.5


def test_a_sub_pixel_convolution_begins_like_a_nearest_neighbour() -> None:
    torch.manual_seed(0)
    up, x = SubPixel(3, 2, 2), torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        made = up(x)
        small = torch.nn.functional.conv2d(x, up.conv.weight[::4], up.conv.bias[::4], padding=1)
    torch.testing.assert_close(made, small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def test_the_tokenizer_comes_back_from_its_description_and_weights() -> None:
    tokenizer = VqTokenizer(light((16, 8), (1, 1)), (3, 3))
    again = build(tokenizer.describe(), tokenizer.state())
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again.decoder()(tokens)[1], tokenizer.decoder()(tokens)[1])


@pytest.mark.parametrize(
    ("channels", "blocks", "reason"),
    [
        ((), (), r"light: channels () and blocks (): need one each a level, at least one level"),
        ((16, 8), (1,), "light: channels (16, 8) and blocks (1,): need one each a level, at least one level"),
        ((16, 0), (1, 1), "light: 0 channels: must be a whole number from 1 to 8192"),
        ((16,), (65,), "light: 65 blocks: must be a whole number from 0 to 64"),
        ((16, 8, 8, 8), (1, 1, 1, 1), "light: 4 levels; this decoder has 3 at most"),
        ((6,), (1,), "light: 6 channels: norm_groups 4 must divide them"),
    ],
)
def test_what_no_light_decoder_has_is_refused(channels, blocks, reason) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        light(channels, blocks)
