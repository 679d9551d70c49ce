"""Training on a user's folder of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress import api
from compress.core.settings import InputError
from compress.models.families import reference
from compress.training.augment import AugmentSettings
from compress.training.folder import Folder
from compress.training.pictures import open_pictures

CPU = torch.device("cpu")
TOKENIZER = """\
name: own-tokenizer
pictures: {folder}
side: 16
tokenizer: {{codes: 8, code_width: 2, latent_width: 4, encoder_channels: [4, 4, 4], decoder_channels: [4, 4, 4],
  encoder_blocks: 1, decoder_blocks: 1, middle_attention: false, norm_groups: 4}}
train: {{steps: 4, batch: 4, crop: 16, continuous: 1, warmup: 1, validate_every: 2, threads: 1}}
"""
MODEL = """\
name: own
{data}
model: {{grid: [4, 4], vocabulary: 8, classes: 2, width: 16, layers: 1, heads: 1, head_width: 16, ffn: 16,
  tokenizer: {tokenizer}}}
train: {{steps: 3, batch: 4, warmup: 1, validate_every: 2, threads: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty dark and ten bright pictures that are not square."""
    room = tmp_path / "pictures"
    for name, count, level in (("dark", 20, 40), ("bright", 10, 200)):
        (room / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (30, 20 + index), (level, level, index)).save(room / name / f"{index}.png")
    return room


def test_pictures_become_squares_with_the_classes_of_their_folders(folder: Path) -> None:
    source = Folder(CPU, folder, 16)
    assert source.classes == ("bright", "dark")
    assert [len(source.part(part)[0]) for part in ("train", "validation", "held_out")] == [25, 2, 3]
    images, labels = source.part("train")
    assert images.shape == (25, 16, 16, 3)
    assert (images[labels == 0, ..., 0] == 200).all()
    assert (images[labels == 1, ..., 0] == 40).all()
    assert len(source.part("train", 4)[0]) == 4


def test_a_batch_is_of_training_pictures_alone_whole_or_cut(folder: Path) -> None:
    source = Folder(CPU, folder, 16)
    held_out = {int(image[0, 0, 2]) for image in source.part("held_out")[0][source.part("held_out")[1] == 1]}
    images, labels = source.batch(200, 16, AugmentSettings(), np.random.default_rng(0))
    assert images.shape == (200, 16, 16, 3)
    seen = {int(image[0, 0, 2]) for image in images[torch.from_numpy(labels == 1)]}
    assert len(seen) > 10
    assert not seen & held_out
    assert source.batch(3, 8, AugmentSettings(), np.random.default_rng(0))[0].shape == (3, 8, 8, 3)
    shifted = source.batch(50, 16, AugmentSettings(shift=4), np.random.default_rng(0))[0]
    assert (shifted[:, 0] == 255).any(), "what comes in from outside is white"


def test_folders_that_cannot_be_trained_on_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give  side, the pixels of one"):
        open_pictures(str(folder), CPU, "here")
    with pytest.raises(InputError, match="emoji have a size of their own; leave  side  out"):
        open_pictures("emoji", CPU, "here", 16)
    (tmp_path / "few").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "few" / "1.png")
    with pytest.raises(InputError, match="holds 1 picture; at least 10 are needed to train on"):
        open_pictures(str(tmp_path / "few"), CPU, "here", 16)


@pytest.mark.parametrize("from_tokens", [True, False])
def test_a_tokenizer_and_a_transformer_are_trained_on_a_folder(folder: Path, tmp_path: Path, from_tokens: bool) -> None:
    (tmp_path / "t.yaml").write_text(TOKENIZER.format(folder=folder))
    assert api.train(tmp_path / "t.yaml", tmp_path / "tokenizer")["psnr_dark"] > 0
    data = f"pictures: {folder}"
    if from_tokens:
        from compress.data.tokens import Encoding, from_folder
        from compress.models.tokenizer import tokenizer_folder

        encoding = Encoding.of(tokenizer_folder.load(tmp_path / "tokenizer"))
        from_folder(folder, encoding, 0.1, 0.1, 0).save(tmp_path / "own.npz")
        data = f"tokens: {tmp_path / 'own.npz'}"
    (tmp_path / "m.yaml").write_text(MODEL.format(data=data, tokenizer=tmp_path / "tokenizer"))
    api.train(tmp_path / "m.yaml", tmp_path / "model")
    model = reference.load(tmp_path / "model")
    assert model.class_names == ("bright", "dark")
    assert model.decode_images(model.draw_tokens(np.array([0, 1]))).shape == (2, 16, 16, 3)
    (tmp_path / "m.yaml").write_text(
        MODEL.format(data=data, tokenizer=tmp_path / "tokenizer").replace("ses: 2", "ses: 3")
    )
    with pytest.raises(InputError, match=r"has 2 classes; model\.classes is 3"):
        api.train(tmp_path / "m.yaml", tmp_path / "other")
