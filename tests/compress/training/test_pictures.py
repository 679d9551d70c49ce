"""Pictures to train on: moved, mirrored and recoloured as the recipe says, and encoded at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration import emoji
from calibration.tokens import Part
from compress.core.settings import InputError
from compress.models import families
from compress.models.tokenizer import tokenizer_folder
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.training import pictures
from compress.training.augment import AugmentSettings, affine_maps, moved, recoloured
from compress.training.pictures import open_pictures
from compress.training.transformer import TrainRecipe, train

CONFIG = VqConfig(
    codes=8, code_width=2, latent_width=4, encoder_channels=(4, 4, 4), decoder_channels=(4, 4, 4), encoder_blocks=1,
    decoder_blocks=1, middle_attention=False, norm_groups=4,
)  # fmt: skip
RECIPE = """\
name: mini
pictures: squares
model:
  {{grid: [4, 4], vocabulary: 8, classes: 2, width: 16, layers: 1, heads: 2, head_width: 8, ffn: 16, tokenizer: {0}}}
augment: {{shift: 1, until: 0.5}}
train: {{steps: 4, batch: 6, warmup: 1, validate_every: 2, threads: 1, dropout: 0}}
"""


class Squares:
    """Black pictures and white ones."""

    side = 16
    classes = ("black", "white")
    remarks = ()

    def __init__(self, device: torch.device) -> None:
        self.device, self.seen = device, list[AugmentSettings]()

    def batch(
        self, count: int, side: int, augment: AugmentSettings, generator: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.int64]]:
        labels = generator.integers(2, size=count)
        self.seen.append(augment)
        return torch.from_numpy(drawn(labels)), labels

    def part(self, part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        labels = np.arange(4) % 2
        return drawn(labels), labels


def drawn(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pictures of these classes."""
    return np.broadcast_to(255 * labels[:, None, None, None], (len(labels), 16, 16, 3)).astype(np.uint8)


def maps(augment: AugmentSettings, count: int = 64, mirrorable: bool = True) -> Tensor:
    """Random maps of pictures of 8 x 8."""
    generator = np.random.default_rng(0)
    return affine_maps(count, 8, augment, np.full(count, mirrorable), generator)


def test_pictures_that_are_not_varied_stay_as_they_are() -> None:
    images = torch.rand(64, 3, 8, 8)
    assert torch.equal(maps(AugmentSettings()), torch.eye(3)[:2].expand(64, 2, 3))
    torch.testing.assert_close(moved(images, maps(AugmentSettings())), images)
    assert torch.equal(recoloured(images, 0.0, np.random.default_rng(0)), images)


def test_a_mirrored_picture_is_the_flipped_one_where_it_may_be() -> None:
    images = torch.rand(64, 3, 8, 8)
    torch.testing.assert_close(moved(images, maps(AugmentSettings(mirror=1.0))), images.flip(3))
    torch.testing.assert_close(moved(images, maps(AugmentSettings(mirror=1.0), mirrorable=False)), images)


def test_a_shift_moves_by_at_most_its_pixels_and_brings_in_white() -> None:
    images = torch.zeros(256, 3, 8, 8)
    made = moved(images, maps(AugmentSettings(shift=2.0), 256))
    assert made.max() == pytest.approx(1.0, abs=1e-5), "what comes in is white"
    assert made[:, :, 2:6, 2:6].max() < 1e-5, "no more than two pixels of it"
    assert maps(AugmentSettings(shift=2.0), 256)[:, :, 2].abs().max() == pytest.approx(0.5, abs=0.02)


def test_a_turn_and_a_change_of_size_are_those_of_the_map() -> None:
    turned = maps(AugmentSettings(turn=90.0), 256)[:, :, :2]
    torch.testing.assert_close(turned.det(), torch.ones(256))
    assert turned[:, 0, 0].min() < 0.05
    sized = maps(AugmentSettings(scale=0.5), 256)[:, :, :2].det().sqrt()
    assert 1 / sized.min() == pytest.approx(1.5, abs=0.02)
    assert 1 / sized.max() == pytest.approx(0.5, abs=0.02)


def test_a_share_of_pictures_is_left_as_it_is() -> None:
    made = maps(AugmentSettings(turn=30.0, shift=2.0, untouched=0.75), 1000)
    alone = (made == torch.eye(3)[:2]).all(dim=(1, 2)).float().mean()
    assert float(alone) == pytest.approx(0.75, abs=0.05)


def test_recoloured_pictures_have_the_same_channels_in_another_order() -> None:
    images = torch.rand(200, 3, 2, 2)
    made = recoloured(images, 1.0, np.random.default_rng(0))
    assert torch.equal(made.sort(dim=1).values, images.sort(dim=1).values)
    orders = {tuple(int(torch.argmax((images[i] == made[i, c]).flatten(1).all(1).int())) for c in range(3)) for i in range(200)}  # fmt: skip  # noqa: E501
    assert len(orders) == 6


def test_pictures_that_are_not_known_are_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"here: 'emojis' is neither a folder of pictures nor 'emoji'"):
        open_pictures("emojis", torch.device("cpu"), "here")


def test_emoji_come_whole_or_as_squares_out_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs = tuple(emoji.Glyph(name, name, "Objects", "some", "train") for name in ("dark", "bright"))
    shades = np.stack([np.full((emoji.DOUBLE, emoji.DOUBLE, 3), level, dtype=np.uint8) for level in (10, 200)])
    monkeypatch.setattr(emoji, "glyphs", lambda: glyphs)
    monkeypatch.setattr(emoji, "labels", lambda: np.array([[0, 1], [0, 2]]))
    monkeypatch.setattr(emoji, "pictures", lambda: shades)
    source = pictures.Emoji(torch.device("cpu"), classes=("subgroup: some", "dark", "bright"))
    for side in (64, 24):
        images, labels = source.batch(40, side, AugmentSettings(), np.random.default_rng(0))
        assert images.shape == (40, side, side, 3)
        assert set(labels) == {0, 1, 2}
        assert (images[torch.from_numpy(labels == 1)] == 10).all()
        assert (images[torch.from_numpy(labels == 2)] == 200).all()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of four steps on black and white pictures."""
    monkeypatch.setitem(pictures.SOURCES, "squares", Squares)
    torch.manual_seed(0)
    (tmp_path / "tokenizer").mkdir()
    tokenizer_folder.save(VqTokenizer(VqAutoencoder(CONFIG), (4, 4)), "mini", tmp_path / "tokenizer")
    (tmp_path / "train.yaml").write_text(RECIPE.format(tmp_path / "tokenizer"))
    return tmp_path / "train.yaml"


def test_a_transformer_is_trained_on_pictures_that_are_encoded_at_every_step(path: Path, tmp_path: Path) -> None:
    result = train(TrainRecipe.load(path), tmp_path / "out")
    assert 0 < result["held_out_nll"] < 2.1
    model = families.load(families.Source(str(tmp_path / "out")), "here")
    assert (model.shape.length, model.tokenizer.picture) == (16, (16, 16, 3))


def test_pictures_are_varied_until_the_share_of_the_steps_that_the_recipe_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Squares(torch.device("cpu"))
    monkeypatch.setitem(pictures.SOURCES, "squares", lambda device: source)
    train(TrainRecipe.load(path), tmp_path / "out")
    assert [each.shift for each in source.seen] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (", tokenizer: {0}}}", "}}", "pictures: squares need model.tokenizer, which encodes them"),
        ("pictures: squares\n", "tokens: digits\n", None),
        (
            "pictures: squares",
            "pictures: squares\ntokens: t.npz",
            "pictures squares and tokens t.npz: give one of the two",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(path: Path, before: str, after: str, said: str | None) -> None:
    text = path.read_text()
    path.write_text(text.replace(before.format(path.parent / "tokenizer"), after.replace("}}", "}")))
    if said is None:
        TrainRecipe.load(path)
        path.write_text(path.read_text().replace("shift: 1", "mirror: 1"))
        said = "augment: mirror and recolour change pictures; give pictures in place of tokens"
    with pytest.raises(InputError) as caught:
        TrainRecipe.load(path)
    assert said in str(caught.value)


def test_pictures_of_another_size_than_the_tokenizers_are_one_line(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("grid: [4, 4]", "grid: [2, 2]"))
    torch.manual_seed(0)
    tokenizer_folder.save(VqTokenizer(VqAutoencoder(CONFIG), (2, 2)), "mini", tmp_path / "tokenizer")
    with pytest.raises(InputError, match="pictures: squares are 16 pixels wide; the tokenizer encodes 8 pixels"):
        train(TrainRecipe.load(path), tmp_path / "out")
