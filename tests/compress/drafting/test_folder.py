"""Recipes that train on a folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.drafting import folder
from compress.training.tokenizer import TokenizerRecipe
from compress.training.transformer import TrainRecipe


def pictures(
    room: Path, count: int = 12, size: tuple[int, int] = (70, 70), names: tuple[str, ...] = ("a", "b")
) -> Path:
    """As many in each class."""
    for name in names:
        (room / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, (index, 0, 0)).save(room / name / f"{index}.png")
    return room


@pytest.mark.parametrize(
    ("size", "side", "grid"), [((200, 150), 128, 16), ((70, 90), 64, 16), ((40, 40), 32, 8), ((9, 9), 16, 4)]
)
def test_sizes_follow_the_pictures(size: tuple[int, int], side: int, grid: int, tmp_path: Path) -> None:
    made = folder.draft(pictures(tmp_path / "mine", size=size), "mine")
    assert (made.side, made.grid, made.labels, made.count) == (side, grid, 2, 24)
    files = tmp_path / "t.yaml", tmp_path / "m.yaml"
    for file, text in zip(files, made.texts(*files), strict=True):
        assert text.startswith("# yaml-language-server: $schema=training.schema.json\n#   compress train ")
        file.write_text(text)
    tokenizer, model = TokenizerRecipe.load(files[0]), TrainRecipe.load(files[1])
    assert tokenizer.side == side == grid * tokenizer.tokenizer.factor
    assert (model.model.grid, model.model.vocabulary) == ((grid, grid), tokenizer.tokenizer.codes)
    assert (model.model.classes, model.sampler.cfg_scale) == (2, 1.5)


def test_pictures_without_classes_have_one(tmp_path: Path) -> None:
    room = pictures(tmp_path / "mine", names=("x",))
    flat = tmp_path / "flat"
    (room / "x").rename(flat)
    made = folder.draft(flat, "flat")
    assert (made.labels, made.classes) == (1, ())
    assert "sampler: {cfg_scale: 1.0}" in made.texts(Path("t.yaml"), Path("m.yaml"))[1]


def test_the_commands_stand_in_order(tmp_path: Path) -> None:
    room = pictures(tmp_path / "mine")
    commands = folder.draft(room, "mine").commands(Path("t.yaml"), Path("m.yaml"))
    assert commands == [
        "compress train t.yaml -o runs/mine-tokenizer",
        "compress train m.yaml -o runs/mine",
        f"compress init runs/mine --tokens {room}",
    ]


def test_too_few_pictures_and_checkpoints_are_told_apart(tmp_path: Path) -> None:
    room = pictures(tmp_path / "few", count=1)
    assert folder.holds_pictures(room)
    with pytest.raises(InputError, match=r"few: holds 2 pictures .*10 are the fewest"):
        folder.draft(room, "few")
    (room / "config.json").write_text("{}")
    assert not folder.holds_pictures(room)
    assert not folder.holds_pictures(room / "a" / "0.png")
