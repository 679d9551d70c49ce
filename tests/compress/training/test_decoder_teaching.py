"""The losses and distances of decoders, by hand, and a teacher that decodes each picture once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.measure.pictures.decoding import psnr
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.training import decoder_teaching
from compress.training.decoder_teaching import (
    DecoderTeacher,
    PictureDistance,
    PictureWeights,
    picture_bytes,
    picture_loss,
    seen,
)

NOTHING = PictureWeights(absolute=0, coarse=0, edges=0)


def autoencoder(pixel_range: str = "signed") -> VqAutoencoder:
    torch.manual_seed(0)
    config = VqConfig(17, 4, 8, (), (8, 8), decoder_blocks=1, norm_groups=4, pixel_range=pixel_range)
    return VqAutoencoder(config).eval().requires_grad_(False)


def test_each_part_of_the_loss_is_what_its_name_says() -> None:
    wanted = torch.zeros(1, 1, 4, 4)
    made = wanted.clone()
    made[0, 0, 0, 0] = 2.0  # one pixel of 16 is off by 2
    squared, absolute = 4 / 16, 2 / 16
    assert float(picture_loss(made, wanted, NOTHING)) == squared
    assert float(picture_loss(made, wanted, PictureWeights(3, 0, 0))) == squared + 3 * absolute
    # two differences of 12 along each axis
    assert float(picture_loss(made, wanted, PictureWeights(0, 0, 1))) == pytest.approx(squared + 2 * 2 / 12)
    # means over 2x2: 0.5 in one of 4; over 4x4: 0.125
    assert float(picture_loss(made, wanted, PictureWeights(0, 1, 0))) == squared + 0.5**2 / 4 + 0.125**2


def test_psnr_is_of_pixels_as_they_are_seen() -> None:
    wanted = torch.ones(2, 3, 2, 2)
    made = torch.stack([wanted[0] - 0.2, wanted[1] + 5])  # a tenth of the range; beyond white, which nobody sees
    found = [psnr(seen(made[index : index + 1]), seen(wanted[index : index + 1])) for index in range(2)]
    assert found == pytest.approx([20.0, 140.0], rel=1e-6)


@pytest.mark.parametrize("pixel_range", ["signed", "unit"])
def test_the_teacher_says_what_the_tokenizer_shows(pixel_range) -> None:
    reference = autoencoder(pixel_range)
    tokens = np.random.default_rng(0).integers(0, 17, (3, 4))
    teacher = DecoderTeacher(reference, (2, 2), tokens)
    shown = VqTokenizer(reference, (2, 2)).decoder()(torch.from_numpy(tokens))[1]  # (B, H, W, 3), 0 to 1
    np.testing.assert_allclose(teacher([0, 1, 2]).permute(0, 2, 3, 1) / 2 + 0.5, shown, atol=2e-3)
    assert PictureDistance(teacher)(reference.decoder) < -60  # its own decoder, but for half precision


def test_pictures_are_decoded_once_while_there_is_room(monkeypatch) -> None:
    reference, calls = autoencoder(), []
    monkeypatch.setattr(decoder_teaching, "MOST_BYTES", 2 * picture_bytes(reference, (2, 2)))
    teacher = DecoderTeacher(reference, (2, 2), np.zeros((3, 4), dtype=np.int64))
    reference.decoder.register_forward_hook(lambda module, given, made: calls.append(1))
    teacher([0, 1, 2])
    teacher([0, 1, 2])
    assert len(calls) == 3 + 1
    assert teacher([2]).dtype == torch.float32
